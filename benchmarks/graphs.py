"""Which families write in ONNX Runtime and in ExecuTorch what they write in torch, once blocks are gone?

For every family of the tests' tiny random models, the folder of a model without an attention and an MLP is exported by
the verb itself, whose check reads it again: three prompts, 16 tokens decoded behind each. A family that can't be
written is a row too, with the reason.

    python benchmarks/graphs.py --to onnx --out graphs.jsonl

The same command goes on: what is in the file is not done again.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.exporting.job import export
from remodeler.runs.records import append_line, load_record, read_lines

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from graphs import made, pruned
from tiny import CAUSAL

GONE = ["attention.1", "mlp.2"]
TARGETS = ("onnx", "executorch")
Row = dict[str, Any]


def measured(name: str, target: str) -> Row:
    """One family in one runtime."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        model = pruned(made(name, place / "whole"), GONE, place / "pruned")
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                export(model.name, target, place / "graph")
            told = load_record(place / "graph").results
            found = {key: told[key] for key in ("runtime", "difference", "same", "tokens")}
        except InputError as error:
            found = {"refused": str(error).replace(root, "")}
    return {"family": name, "to": target, **found, "seconds": round(time.perf_counter() - begun, 1)}


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        f"| {row['family']} | {row['to']} | "
        + (
            f"refused: {row['refused']} | |"
            if "refused" in row
            else f"{row['difference']:.1e} | {row['same']} of {row['tokens']} |"
        )
        for row in rows
    ]
    return "\n".join(["| family | runtime | difference | greedy tokens the same |", "|---|---|---|---|", *lines])


def main() -> None:
    """Measure what is missing, print what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", nargs="*", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--families", nargs="*", default=CAUSAL, choices=CAUSAL)
    parser.add_argument("--out", type=Path, default=Path("graphs.jsonl"))
    given = parser.parse_args()
    rows = read_lines(given.out) if given.out.exists() else []
    done = {(row["family"], row["to"]) for row in rows}
    for target in given.to:
        for name in given.families:
            if (name, target) not in done:
                rows.append(measured(name, target))
                append_line(given.out, rows[-1])
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
