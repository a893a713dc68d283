"""Which families write in ONNX Runtime and in ExecuTorch what they write in torch, once blocks are gone?

For every family of the tests' tiny random models, the folder of a model without an attention and an MLP is exported by
the verb itself, whose check reads it again: three prompts, 16 tokens decoded behind each. A family that can't be
written is a row too, with the reason.

    python benchmarks/graphs.py --to onnx --out graphs.jsonl

The same command goes on: what is in the file is not done again.
"""

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common import TESTS, Row, new_parser, publish, read_rows, run_main, timed
from measurements import Column, Table

from remodeler.errors import InputError
from remodeler.exporting.job import export
from remodeler.runs.records import append_line, load_record

sys.path.insert(0, str(TESTS))

from graphs import made, pruned
from tiny import CAUSAL

GONE = ["attention.1", "mlp.2"]
TARGETS = ("onnx", "executorch")
COLUMNS = (
    Column("family", "family"),
    Column("to", "runtime"),
    Column("difference", "difference", "{value:.1e}"),
    Column("same", "greedy tokens the same", "{same} of {tokens}", missing=""),
)


def measured(name: str, target: str) -> Row:
    """One family in one runtime."""
    run = timed(partial(exported, name, target))
    return {"family": name, "to": target, **run.value, "seconds": round(run.seconds, 1)}


def exported(name: str, target: str) -> Row:
    """What the check of an export found, or why there is none."""
    with tempfile.TemporaryDirectory() as root:
        place = Path(root)
        model = pruned(made(name, place / "whole"), GONE, place / "pruned")
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                export(model.name, target, place / "graph")
            told = load_record(place / "graph").results
            return {key: told[key] for key in ("runtime", "difference", "same", "tokens")}
        except InputError as error:
            return {"refused": str(error).replace(root, "")}


def cells(row: Row) -> Row:
    """A row of the table."""
    same = None if "refused" in row else {"same": row["same"], "tokens": row["tokens"]}
    told = f"refused: {row['refused']}" if "refused" in row else row["difference"]
    return {"family": row["family"], "to": row["to"], "difference": told, "same": same}


def table(rows: Sequence[Row]) -> Table:
    """All rows."""
    return Table(COLUMNS, tuple(map(cells, rows)))


def main() -> None:
    """Measure what is missing, print what is there."""
    parser = new_parser(__doc__)
    parser.add_argument("--to", nargs="*", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--families", nargs="*", default=CAUSAL, choices=CAUSAL)
    parser.add_argument("--out", type=Path, default=Path("graphs.jsonl"))
    given = parser.parse_args()
    rows = read_rows(given.out)
    done = {(row["family"], row["to"]) for row in rows}
    for target in given.to:
        for name in given.families:
            if (name, target) not in done:
                rows.append(measured(name, target))
                append_line(given.out, rows[-1])
                print(json.dumps(rows[-1]), flush=True)
    publish(given, {"families": table(rows)})


if __name__ == "__main__":
    run_main(main)
