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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from common import (
    Row,
    add_loading,
    add_numbers,
    add_paths,
    load_float32,
    new_parser,
    publish,
    read_rows,
    run_main,
    timed,
)
from measurements import Column, Table

from remodeler.checkpoint.load import read_tokenizer
from remodeler.fusion.config import FuseConfig, TargetConfig
from remodeler.fusion.job import fuse_models
from remodeler.fusion.prepare import prepare
from remodeler.merging.job import merge
from remodeler.runs.config import RunConfig
from remodeler.runs.options import build
from remodeler.runs.records import append_line, load_record

MERGES: dict[str, tuple[str, Row]] = {
    "linear": ("linear", {}),
    "ties": ("ties", {"density": "0.6"}),
    "varm": ("varm", {}),
    "sce": ("sce", {"select": "0.1"}),
    "sce 1": ("sce", {"select": "1"}),
}
WAYS = (
    Column("way", "way"),
    Column("after", "after", "{value:.4f}", "bits per byte"),
    Column("spread", "spread", "{value:.4f}", "standard deviation over seeds"),
    Column("gains", "better than text alone", "{value:+.4f}", "bits per byte, by seed", missing=""),
)
TEACHERS = (
    Column("teacher", "teacher"),
    Column("coverage", "positions", "{value:.1%}"),
    Column("bits_per_byte", "bits per byte", "{value:.3f}"),
    Column("weight", "counts", "{value:.1%}"),
)


def ways(config: FuseConfig, shares: Sequence[float]) -> Iterator[tuple[str, FuseConfig]]:
    """Names of the ways, and what each asks for."""
    yield "text", replace(config, text_share=1.0)
    yield "text again", replace(config, text_share=1.0, order_seed=config.seed + 100)
    for share in shares:
        ending = "" if len(shares) == 1 else f" {share:g}"
        shared = replace(config, text_share=share)
        for teacher in config.teachers:
            pair = replace(shared, teachers=(teacher,))
            yield f"pair {Path(teacher).name}{ending}", pair
            if other_tokenizer(config.student, teacher, config.loading.trust_remote_code):
                borders = replace(pair.matching, inside=False)
                yield f"pair {Path(teacher).name} borders{ending}", replace(pair, matching=borders)
                yield f"pair {Path(teacher).name} hybrid{ending}", replace(pair, divergence="hybrid")
        yield f"all{ending}", shared
        yield f"all by token{ending}", replace(shared, target=TargetConfig(level="token"))
        yield f"all next{ending}", replace(shared, target=TargetConfig(unaligned="next"))


def other_tokenizer(student: str, teacher: str, trust: bool) -> bool:
    """Whether two models cut texts differently."""
    one, two = (read_tokenizer(name, trust_remote_code=trust).get_vocab() for name in (student, teacher))
    return bool(one != two)


def fused(name: str, config: FuseConfig, folder: Path, rows: Path, done: set[tuple[str, int]]) -> None:
    """One way, once."""
    if (name, config.seed) in done:
        return
    out = folder / f"{name.replace(' ', '-')}-{config.seed}"
    shutil.rmtree(out, ignore_errors=True)
    run = timed(partial(fuse_models, replace(config, run=RunConfig(out=out))))
    results = load_record(out).results
    row = {
        "way": name,
        "seed": config.seed,
        "before": results["student"]["heldout_bits_per_byte"],
        "after": results["fused"]["heldout_bits_per_byte"],
        "teachers": results["teachers"],
        "processor": run.processor,
    }
    append_line(rows, row)
    print(f"{name}, seed {config.seed}: {row['before']:.4f} -> {row['after']:.4f}", file=sys.stderr, flush=True)


def merged(config: FuseConfig, share: str, folder: Path, rows: Path, done: set[tuple[str, int]]) -> None:
    """The pairs of a seed, merged in every way; and the control, text alone of two seeds merged."""
    pairs = [f"pair-{Path(teacher).name}{share.replace(' ', '-')}-{config.seed}" for teacher in config.teachers]
    ways = {f"merged {name}{share}": (pairs, *way) for name, way in MERGES.items()}
    ways["merged texts"] = ([f"text-{config.seed}", f"text-again-{config.seed}"], "linear", {})
    inputs = prepare(config, config.loading.device)
    for name, (parts, method, options) in ways.items():
        if (name, config.seed) in done:
            continue
        out = folder / f"{name.replace(' ', '-')}-{config.seed}"
        shutil.rmtree(out, ignore_errors=True)
        base = None if method == "linear" else config.student
        merge([folder / part for part in parts], base=base, method=method, **options, out=out)
        scores = inputs.scores(load_float32(out, config.loading))
        append_line(rows, {"way": name, "seed": config.seed, "after": scores["heldout_bits_per_byte"]})


def table(rows: Sequence[Row]) -> Table:
    """Means and spread over the seeds, and the difference from the text alone, seed by seed."""
    plain = {row["seed"]: row["after"] for row in rows if row["way"] == "text"}
    before = next(row["before"] for row in rows if row["way"] == "text")
    lines = []
    for way in dict.fromkeys(row["way"] for row in rows):
        values = {row["seed"]: row["after"] for row in rows if row["way"] == way}
        gains = [plain[seed] - value for seed, value in values.items() if seed in plain]
        spread = statistics.stdev(values.values()) if len(values) > 1 else 0.0
        lines.append({"way": way, "after": statistics.mean(values.values()), "spread": spread, "gains": gains})
    return Table(WAYS, tuple(lines), f"Before: {before:.4f} bits per byte.")


def teachers(rows: Sequence[Row]) -> Table:
    """What each teacher contributed, in the first run that had them all."""
    row = next(row for row in rows if row["way"].startswith("all"))
    return Table(TEACHERS, tuple({"teacher": Path(name).name, **each} for name, each in row["teachers"].items()))


def config_of(given: argparse.Namespace, seed: int) -> FuseConfig:
    """What all ways of a seed share."""
    names = ("student", "teachers", "texts", "samples", "length", "trust_remote_code", "family")
    pace = {"steps": given.steps, "learning_rate": given.rate, "train_batch_size": given.batch, "evaluate_every": 0}
    own = {name: getattr(given, name) for name in names}
    store = given.out / "stores"
    return build(FuseConfig, {**own, **pace, "seed": seed, "teacher_store": store, "device": "cpu"})


def main() -> None:
    """Train, merge, print."""
    parser = new_parser(__doc__)
    parser.add_argument("student")
    parser.add_argument("--teachers", nargs="+", required=True)
    parser.add_argument("--texts", required=True)
    add_paths(parser, "out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    add_numbers(parser, samples=250, length=256, steps=200, batch=8, rate=1e-3)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.9, 0.5])
    add_loading(parser)
    parser.add_argument("--only", nargs="+", help="names of ways, or how they begin")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = given.out / "rows.jsonl"
    done = {(row["way"], row["seed"]) for row in read_rows(rows)}
    for seed in given.seeds:
        config = config_of(given, seed)
        for name, each in ways(config, given.shares):
            if given.only and not any(name.startswith(only) for only in given.only):
                continue
            fused(name, each, given.out, rows, done)
        for share in given.shares:
            merged(config, "" if len(given.shares) == 1 else f" {share:g}", given.out, rows, done)
    found = read_rows(rows)
    publish(given, {"ways": table(found), "teachers": teachers(found)})


if __name__ == "__main__":
    run_main(main)
