"""Fusion against plain fine-tuning, and merged pairs against fusion at once: same text, steps and seeds.

Claim: what several teachers predict helps a student more than the text alone. Each way trains the same student on the
same windows in the same order; what differs is the target. ``text`` has no teachers; ``all`` is FuseLLM's way, every
teacher at once; ``pair NAME`` is FuseChat's, one teacher and the student itself; the pairs are then merged, and, as
the control, text-only students of several seeds too. ``borders`` leaves sub-token positions out, ``next``
takes the next best teacher where the best has no prediction, ``hybrid`` is GOLD's loss. Held-out text is that of the
same source, in bits per byte. Rows go to OUT/rows.jsonl; the same command goes on.

    python benchmarks/fuse.py STUDENT --teachers A B --texts FILE --out OUT --seeds 1 2 3
"""

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from remodeler.checkpoint.load import load, read_tokenizer
from remodeler.fusion.config import FuseConfig, resolve
from remodeler.fusion.job import fuse
from remodeler.fusion.prepare import prepare
from remodeler.merging.job import merge
from remodeler.runs.options import build
from remodeler.runs.records import append_line, load_record, read_lines

MERGES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "ties": ("ties", {"density": 0.6}),
    "varm": ("varm", {}),
    "sce": ("sce", {"select": 0.1}),
    "sce 1": ("sce", {"select": 1.0}),
}


Options = dict[str, Any]
"""Of a fusion, by name."""


def ways(options: Options, shares: Sequence[float]) -> Iterator[tuple[str, Options]]:
    """Names of the ways, and the options of each."""
    yield "text", options | {"text_share": 1.0}
    yield "text again", options | {"text_share": 1.0, "order_seed": options["seed"] + 100}
    for share in shares:
        suffix = "" if len(shares) == 1 else f" {share:g}"
        every = options | {"text_share": share}
        for teacher in options["teachers"]:
            pair = every | {"teachers": [teacher]}
            yield f"pair {Path(teacher).name}{suffix}", pair
            if other_tokenizer(options["student"], teacher, options["trust_remote_code"]):
                yield f"pair {Path(teacher).name} borders{suffix}", pair | {"inside": False}
                yield f"pair {Path(teacher).name} hybrid{suffix}", pair | {"divergence": "hybrid"}
        yield f"all{suffix}", every
        yield f"all by token{suffix}", every | {"level": "token"}
        yield f"all next{suffix}", every | {"unaligned": "next"}


def other_tokenizer(student: str, teacher: str, trust: bool) -> bool:
    """Whether two models cut texts differently."""
    one, two = (read_tokenizer(name, trust_remote_code=trust).get_vocab() for name in (student, teacher))
    return bool(one != two)


def run_fusion(name: str, options: Options, folder: Path, rows: Path, done: set[tuple[str, int]]) -> None:
    """One way, once."""
    seed = options["seed"]
    if (name, seed) in done:
        return
    out = folder / f"{name.replace(' ', '-')}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    start = time.process_time()
    fuse(**options, out=out)
    results = load_record(out).results
    row = {
        "way": name,
        "seed": seed,
        "before": results["student"]["heldout_bits_per_byte"],
        "after": results["fused"]["heldout_bits_per_byte"],
        "teachers": results["teachers"],
        "processor": time.process_time() - start,
    }
    append_line(rows, row)
    print(f"{name}, seed {seed}: {row['before']:.4f} -> {row['after']:.4f}", file=sys.stderr, flush=True)


def run_merges(options: Options, share: str, folder: Path, rows: Path, done: set[tuple[str, int]]) -> None:
    """The pairs of a seed, merged in every way; and the control, text alone of two seeds merged."""
    seed = options["seed"]
    pairs = [f"pair-{Path(teacher).name}{share.replace(' ', '-')}-{seed}" for teacher in options["teachers"]]
    merges = {f"merged {name}{share}": (pairs, *way) for name, way in MERGES.items()}
    merges["merged texts"] = ([f"text-{seed}", f"text-again-{seed}"], "linear", {})
    inputs = prepare(resolve(build(FuseConfig, options)), options["device"])
    for name, (parts, method, given) in merges.items():
        if (name, seed) in done:
            continue
        out = folder / f"{name.replace(' ', '-')}-{seed}"
        shutil.rmtree(out, ignore_errors=True)
        base = None if method == "linear" else options["student"]
        merge([str(folder / part) for part in parts], base=base, method=method, out=out, **given)
        loaded = load(out, dtype="float32", device="cpu", trust_remote_code=options["trust_remote_code"])
        append_line(rows, {"way": name, "seed": seed, "after": inputs.scores(loaded)["heldout_bits_per_byte"]})


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means and spread over the seeds, and the difference from the text alone, seed by seed."""
    plain = {row["seed"]: row["after"] for row in rows if row["way"] == "text"}
    before = next(row["before"] for row in rows if row["way"] == "text")
    lines = [
        f"Before: {before:.4f} bits per byte.",
        "",
        "| way | after | spread | better than text alone |",
        "|---|---|---|---|",
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        values = {row["seed"]: row["after"] for row in rows if row["way"] == way}
        gains = [plain[seed] - value for seed, value in values.items() if seed in plain]
        spread = statistics.stdev(values.values()) if len(values) > 1 else 0.0
        told = ", ".join(f"{gain:+.4f}" for gain in gains)
        lines.append(f"| {way} | {statistics.mean(values.values()):.4f} | {spread:.4f} | {told} |")
    return "\n".join(lines)


def teachers_table(rows: Sequence[dict[str, Any]]) -> str:
    """How well each teacher predicts, in the first run that has all of them."""
    row = next(row for row in rows if row["way"].startswith("all"))
    lines = ["| teacher | positions | bits per byte | weight |", "|---|---|---|---|"]
    for name, each in row["teachers"].items():
        cells = f"{each['coverage']:.1%} | {each['bits_per_byte']:.3f} | {each['weight']:.1%}"
        lines.append(f"| {Path(name).name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Train, merge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--teachers", nargs="+", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.9, 0.5])
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--family")
    parser.add_argument("--only", nargs="+", help="names of ways, or how they begin")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = given.out / "rows.jsonl"
    done = {(row["way"], row["seed"]) for row in (read_lines(rows) if rows.exists() else [])}
    for seed in given.seeds:
        options: Options = {
            "student": given.student,
            "teachers": list(given.teachers),
            "texts": given.texts,
            "samples": given.samples,
            "length": given.length,
            "steps": given.steps,
            "seed": seed,
            "teacher_store": given.out / "stores",
            "trust_remote_code": given.trust_remote_code,
            "family": given.family,
            "device": "cpu",
            "learning_rate": given.rate,
            "train_batch_size": given.batch,
            "evaluate_every": 0,
        }
        for name, each in ways(options, given.shares):
            if given.only and not any(name.startswith(only) for only in given.only):
                continue
            run_fusion(name, each, given.out, rows, done)
        for share in given.shares:
            run_merges(options, "" if len(given.shares) == 1 else f" {share:g}", given.out, rows, done)
    found = read_lines(rows)
    print(f"{table(found)}\n\n{teachers_table(found)}")


if __name__ == "__main__":
    main()
