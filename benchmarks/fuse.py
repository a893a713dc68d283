"""Fusion against plain fine-tuning, and merged pairs against fusion at once: same text, steps and seeds.

Claim: what several teachers predict helps a student more than the text alone. Each way trains the same student on the
same windows in the same order; what differs is the target. ``text`` has no teachers; ``all`` is FuseLLM's way, every
teacher at once; ``pair NAME`` is FuseChat's, one teacher and the student itself; the pairs are then merged, and, as
the control, text-only students of several seeds too. ``borders`` leaves a teacher silent inside its own tokens,
``next`` hears the next best voice where the best is silent, ``hybrid`` is GOLD's loss. Held-out text is that of the
same source, in bits per byte. Rows go to OUT/rows.jsonl; the same command goes on.

    python benchmarks/fuse.py STUDENT --teachers A B --texts FILE --out OUT --seeds 1 2 3
"""

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from remodeler.checkpoint.load import load, read_tokenizer
from remodeler.fusion.config import Wish
from remodeler.fusion.job import fuse_models
from remodeler.fusion.prepare import prepared
from remodeler.fusion.targets import Rules
from remodeler.merging.config import Wish as MergeWish
from remodeler.merging.job import merge_models
from remodeler.merging.settings import parsed
from remodeler.runs.records import append_line, load_record, read_lines

MERGES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "ties": ("ties", {"density": [parsed("", "0.6")]}),
    "varm": ("varm", {}),
    "sce": ("sce", {"select": [parsed("", "0.1")]}),
    "sce 1": ("sce", {"select": [parsed("", "1")]}),
}


def ways(wish: Wish, shares: Sequence[float]) -> Iterator[tuple[str, Wish]]:
    """Names of the ways, and what each asks for."""
    yield "text", replace(wish, share=1.0)
    yield "text again", replace(wish, share=1.0, run={**wish.run, "order": wish.seed + 100})
    for share in shares:
        told = "" if len(shares) == 1 else f" {share:g}"
        for teacher in wish.teachers:
            pair = replace(wish, teachers=(teacher,), share=share)
            yield f"pair {Path(teacher).name}{told}", pair
            if other_tokenizer(wish.student, teacher, wish.trust_remote_code):
                yield f"pair {Path(teacher).name} borders{told}", replace(pair, inside=False)
                yield f"pair {Path(teacher).name} hybrid{told}", replace(pair, divergence="hybrid")
        yield f"all{told}", replace(wish, share=share)
        yield f"all by token{told}", replace(wish, share=share, rules=Rules(level="token"))
        yield f"all next{told}", replace(wish, share=share, rules=Rules(unaligned="next"))


def other_tokenizer(student: str, teacher: str, trust: bool) -> bool:
    """Whether two models cut texts differently."""
    one, two = (read_tokenizer(name, trust_remote_code=trust).get_vocab() for name in (student, teacher))
    return bool(one != two)


def fused(name: str, wish: Wish, folder: Path, rows: Path, done: set[tuple[str, int]]) -> None:
    """One way, once."""
    if (name, wish.seed) in done:
        return
    out = folder / f"{name.replace(' ', '-')}-{wish.seed}"
    shutil.rmtree(out, ignore_errors=True)
    start = time.process_time()
    fuse_models(wish, out)
    results = load_record(out).results
    row = {
        "way": name,
        "seed": wish.seed,
        "before": results["student"]["heldout_bits_per_byte"],
        "after": results["fused"]["heldout_bits_per_byte"],
        "voices": results["voices"],
        "processor": time.process_time() - start,
    }
    append_line(rows, row)
    print(f"{name}, seed {wish.seed}: {row['before']:.4f} -> {row['after']:.4f}", file=sys.stderr, flush=True)


def merged(wish: Wish, share: str, folder: Path, rows: Path, done: set[tuple[str, int]]) -> None:
    """The pairs of a seed, merged in every way; and the control, text alone of two seeds merged."""
    pairs = [f"pair-{Path(teacher).name}{share.replace(' ', '-')}-{wish.seed}" for teacher in wish.teachers]
    ways = {f"merged {name}{share}": (pairs, *way) for name, way in MERGES.items()}
    ways["merged texts"] = ([f"text-{wish.seed}", f"text-again-{wish.seed}"], "linear", {})
    job = prepared(wish, wish.device)
    for told, (parts, method, options) in ways.items():
        if (told, wish.seed) in done:
            continue
        out = folder / f"{told.replace(' ', '-')}-{wish.seed}"
        shutil.rmtree(out, ignore_errors=True)
        base = None if method == "linear" else wish.student
        merge_models(MergeWish(tuple(str(folder / part) for part in parts), base, method, options), out)
        scores = job.scores(load(out, dtype="float32", device="cpu", trust_remote_code=wish.trust_remote_code))
        append_line(rows, {"way": told, "seed": wish.seed, "after": scores["heldout_bits_per_byte"]})


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


def voices(rows: Sequence[dict[str, Any]]) -> str:
    """What each voice had to say, in the first run that heard all."""
    row = next(row for row in rows if row["way"].startswith("all"))
    lines = ["| voice | positions | bits per byte | counts |", "|---|---|---|---|"]
    for name, each in row["voices"].items():
        told = f"{each['coverage']:.1%} | {each['bits_per_byte']:.3f} | {each['weight']:.1%}"
        lines.append(f"| {Path(name).name} | {told} |")
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
    run = {"learning_rate": given.rate, "batch": given.batch, "evaluate_every": 0}
    for seed in given.seeds:
        wish = Wish(
            given.student,
            tuple(given.teachers),
            given.texts,
            given.samples,
            length=given.length,
            steps=given.steps,
            seed=seed,
            stores=given.out / "stores",
            trust_remote_code=given.trust_remote_code,
            family=given.family,
            device="cpu",
            run=run,
        )
        for name, each in ways(wish, given.shares):
            if given.only and not any(name.startswith(only) for only in given.only):
                continue
            fused(name, each, given.out, rows, done)
        for share in given.shares:
            merged(wish, "" if len(given.shares) == 1 else f" {share:g}", given.out, rows, done)
    found = read_lines(rows)
    print(f"{table(found)}\n\n{voices(found)}")


if __name__ == "__main__":
    main()
