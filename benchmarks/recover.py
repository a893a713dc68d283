"""What training gives back of what pruning cost: adapters, all parameters, and distillation, at equal steps.

A model is pruned by BlockPruner's search to each ratio, written, loaded and trained; held-out perplexity is taken
before, on the way and after. A figure is the share of the lost perplexity that came back: 0 is the pruned model, 1 the
unpruned one (it can be passed where the text is not what the model was trained on). Processor time is this process's,
so that other work on the machine does not count.

Learning rates are given for each way; ``--pilot`` tries several on one seed and judges them by the *calibration* text,
which is not trained on, so that the held-out text chooses nothing.

Every finished row is a line of ``OUT/rows.jsonl``; every run goes on from its last state. Killed, the same command
goes on.

    python benchmarks/recover.py MODEL --texts FILE --held-out FILE --out OUT
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import (
    DEMO,
    Row,
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

from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.checkpoint.save import save_pruned
from remodeler.cli.screen import note
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.evaluation.metrics import model_windows
from remodeler.model.logprobs import mean_nll, perplexity
from remodeler.pruning.config import Budget
from remodeler.pruning.methods import METHODS
from remodeler.pruning.search.loop import Search, prune
from remodeler.recovery.config import RecoverConfig
from remodeler.recovery.methods import recipe_of
from remodeler.recovery.recipes import Recipe
from remodeler.runs.options import build
from remodeler.runs.records import append_line
from remodeler.runs.removals import blocks_of
from remodeler.training.adapters import adapted, everything
from remodeler.training.loop import train
from remodeler.training.losses import Loss, cross_entropy, distillation, teacher

WAYS: dict[str, Row] = {
    "lora": {"method": "lora"},
    "full": {"method": "full"},
    "distill": {"method": "distill", "text_share": 0.0},
    "half": {"method": "distill", "text_share": 0.5},
    "distill-10": {"method": "distill", "text_share": 0.0, "top_k": 10},
    "distill-lora": {"method": "distill", "text_share": 0.0, "adapters": True},
}
"""``distill``: the teacher's predictions alone; ``half``: as much of the text's loss; ``distill-10``: ten tokens."""
RATES = {"lora": 1e-3, "full": 3e-4, "distill": 3e-4, "half": 3e-4, "distill-10": 3e-4, "distill-lora": 1e-3}


def recipe_for(way: str) -> Recipe:
    """The recipe of a row."""
    teacher = {"teacher": "given"} if WAYS[way]["method"] == "distill" else {}
    return recipe_of(build(RecoverConfig, {"model": "given", **teacher, **WAYS[way]}))


@dataclass(frozen=True)
class Setup:
    """A model with the texts that it is pruned, trained and judged by."""

    dense: Checkpoint
    calibration: Windows
    training: Windows
    heldout: Windows

    @property
    def model(self) -> str:
        """Short name: that of its folder."""
        return Path(self.dense.name).name


def prepare(model: str, given: argparse.Namespace) -> Setup:
    """Load a model and cut its windows: three texts that share nothing."""
    dense = load_float32(model)
    source, held = given.texts, given.held_out or given.texts
    calibration = sample(source, given.samples).calibration
    taken = set(calibration)
    drawn = sample(source, given.samples * 8, training=True)
    texts = [text for text in drawn.calibration if text not in taken]
    heldout = drawn.heldout if held == source else sample(held, given.samples).heldout
    cut = {"calibration": calibration, "training": texts, "heldout": heldout}
    windows = {name: model_windows(dense, found, given.length) for name, found in cut.items()}
    return Setup(dense, windows["calibration"][: given.windows], windows["training"], windows["heldout"][:32])


def pruned(setup: Setup, ratio: float, folder: Path) -> Path:
    """The model without a share of its parameters, written once."""
    place = folder / f"{setup.model}-{ratio:.0%}"
    if (place / "done").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    method = METHODS["blockpruner"]
    search = Search(setup.dense.anatomy, setup.calibration, Budget(ratio=ratio), method, method.unit)
    header = {
        "name": setup.model,
        "model": {"weights": fingerprint(setup.dense.model)},
        "texts": {"sha256": setup.calibration.fingerprint()},
        "options": {"method": "blockpruner"},
    }
    steps = prune(search, folder / f"{setup.model}.jsonl", header)
    reached = next((count for count, step in enumerate(steps, 1) if _share(setup, blocks_of(steps[:count])) >= ratio))
    save_pruned(setup.dense, blocks_of(steps[:reached]), place)
    (place / "done").touch()
    return place


def _share(setup: Setup, removed: Sequence[Any]) -> float:
    whole = setup.dense.anatomy.parameters()
    return 1 - setup.dense.anatomy.parameters(removed) / whole


def loss_of(recipe: Recipe, dense: Checkpoint) -> Loss:
    """What a way minimises."""
    distill = recipe.distill
    if distill is None:
        return cross_entropy
    return distillation(teacher(dense.anatomy, distill.k, distill.temperature), distill.share, distill.temperature)


def trainable(recipe: Recipe, student: Checkpoint, seed: int) -> AbstractContextManager[Any]:
    """What a way may change."""
    return adapted(student.anatomy, recipe.lora, seed) if recipe.lora else everything(student.anatomy)


def run(setup: Setup, way: str, rate: float, ratio: float, seed: int, given: argparse.Namespace) -> Row:
    """Train one model one way."""
    place = pruned(setup, ratio, given.out / "models")
    student, recipe = load_float32(place), recipe_for(way)
    row: Row = {"model": setup.model, "way": way, "rate": rate, "ratio": ratio, "seed": seed, "steps": given.steps}
    row |= {"batch": given.batch, "length": given.length, "parameters": student.anatomy.parameters()}
    row["dense"], row["pruned"] = (perplexity(mean_nll(each.anatomy, setup.heldout)) for each in (setup.dense, student))
    folder = given.out / "runs" / "-".join(str(row[key]) for key in ("model", "way", "rate", "ratio", "seed", "steps"))
    plan = recipe.training(
        len(setup.training), given.steps, seed=seed, evaluate_every=max(1, given.steps // 4), save_minutes=1.0
    )
    plan = replace(plan, learning_rate=rate, batch=given.batch)
    loss = loss_of(recipe, setup.dense)
    with trainable(recipe, student, seed):
        trained = timed(partial(train, student.anatomy, loss, setup.training, plan, folder, row, setup.heldout))
        row["processor_seconds"] = trained.processor
        row["recovered"] = perplexity(mean_nll(student.anatomy, setup.heldout))
        row["calibration"] = perplexity(mean_nll(student.anatomy, setup.calibration))
    row["curve"] = [[line["step"], perplexity(line["heldout"])] for line in trained.value if "heldout" in line]
    return row


def came_back(row: Row, value: float) -> float:
    """Share of the lost perplexity."""
    return (row["pruned"] - value) / (row["pruned"] - row["dense"])


KEYS = ("model", "way", "rate", "ratio", "seed", "steps", "batch", "length")


def wanted(given: argparse.Namespace) -> Iterator[tuple[int, float, str, float]]:
    """Seed, ratio, way and learning rate of every run; the first seed of everything goes first."""
    rates = dict(RATES) | {name: float(rate) for name, rate in (each.split("=") for each in given.rate)}
    if given.pilot:
        yield from ((1, given.ratios[0], way, rate) for rate in given.pilot for way in given.ways)
        return
    yield from ((seed, ratio, way, rates[way]) for seed in given.seeds for ratio in given.ratios for way in given.ways)


COLUMNS = (
    Column("model", "model"),
    Column("ratio", "removed", "{value:.0%}"),
    Column("way", "way"),
    Column("rate", "rate", "{value:g}"),
    Column("dense", "unpruned", "{value:.2f}", "perplexity"),
    Column("pruned", "pruned", "{value:.2f}", "perplexity"),
    Column("recovered", "recovered", "{value:.2f}", "perplexity"),
    Column("came_back", "came back", "{value:.0%}", "share of the lost perplexity"),
    Column("early", "in a quarter", "{value:.0%}", "share of the lost perplexity"),
    Column("minutes", "CPU minutes", "{value:.1f}", "min"),
)


def table(rows: Sequence[Row]) -> Table:
    """A line a way: mean over seeds, and each seed where there are several."""
    caption = f"{rows[0]['steps']} steps of {rows[0]['batch']} windows of {rows[0]['length']}"
    names = dict.fromkeys((row["ratio"], row["way"], row["rate"]) for row in rows)
    same = ([row for row in rows if (row["ratio"], row["way"], row["rate"]) == name] for name in names)
    return Table(COLUMNS, tuple(map(cells, same)), caption)


def cells(same: Sequence[Row]) -> Row:
    """The runs of a way that differ in their seeds."""
    shares = [came_back(row, row["recovered"]) for row in same]
    mean = statistics.fmean(shares)
    each: Any = {"mean": mean, "each": shares, "cell": "{mean:.0%} ({each:.0%})"} if len(shares) > 1 else mean
    figures = {key: statistics.fmean(row[key] for row in same) for key in ("dense", "pruned", "recovered")}
    figures["early"] = statistics.fmean(came_back(row, row["curve"][1][1]) for row in same)
    figures["minutes"] = statistics.fmean(row["processor_seconds"] for row in same) / 60
    name = {key: same[0][key] for key in ("model", "ratio", "way", "rate")}
    return name | figures | {"came_back": each}


def measure(model: str, given: argparse.Namespace) -> list[Row]:
    """The rows of a model: those that are there, and those that were missing."""
    file = given.out / "rows.jsonl"
    known = {tuple(row[key] for key in KEYS): row for row in read_rows(file)}
    setup, found = prepare(model, given), []
    note(f"{setup.model}: {len(setup.training)} windows to train on, {len(setup.heldout)} held out")
    for seed, ratio, way, rate in wanted(given):
        key = (setup.model, way, rate, ratio, seed, given.steps, given.batch, given.length)
        if key not in known:
            known[key] = run(setup, way, rate, ratio, seed, given)
            append_line(file, known[key])
        row = known[key]
        told = f"{row['pruned']:.3f} -> {row['recovered']:.3f} (calibration text {row['calibration']:.3f})"
        note(f"{setup.model} {ratio:.0%} {way} {rate:g} seed {seed}: {told}, {came_back(row, row['recovered']):.0%}")
        found.append(row)
    return found


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = new_parser(__doc__)
    parser.add_argument("model", nargs="?", default=str(DEMO))
    parser.add_argument("--texts", default="python", metavar="SOURCE")
    parser.add_argument("--held-out", metavar="SOURCE")
    parser.add_argument(
        "--samples", type=int, default=200, help="texts to calibrate on; eight times as many to train on"
    )
    parser.add_argument("--windows", type=int, default=24, help="of calibration text")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.25, 0.35])
    parser.add_argument("--ways", nargs="+", default=["lora", "full", "distill"], choices=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    add_numbers(parser, steps=200, batch=8, length=128, threads=1)
    parser.add_argument("--rate", nargs="*", default=[], metavar="WAY=RATE")
    parser.add_argument("--pilot", nargs="*", type=float, default=[], metavar="RATE", help="try these on one seed")
    add_paths(parser, "out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    publish(given, {"ways": table(measure(given.model, given))})


if __name__ == "__main__":
    run_main(main)
