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
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import remodeler
from remodeler.checkpoint.load import Checkpoint, fingerprint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.cli.screen import note
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.evaluation.metrics import model_windows
from remodeler.model.logprobs import mean_nll, perplexity
from remodeler.pruning.config import Budget
from remodeler.pruning.methods import METHODS
from remodeler.pruning.search.loop import Search, prune
from remodeler.recovery.config import RecoverConfig
from remodeler.recovery.methods import Recipe, recipe_of
from remodeler.runs.options import build
from remodeler.runs.records import append_line, drop_torn_line, read_lines
from remodeler.runs.removals import blocks_of
from remodeler.training.adapters import adapted, everything
from remodeler.training.loop import train
from remodeler.training.losses import Loss, cross_entropy, distillation, teacher

DEMO = str(Path(remodeler.__file__).parent / "demo_model")
WAYS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "full": {"method": "full"},
    "distill": {"method": "distill", "text_share": 0.0},
    "half": {"method": "distill", "text_share": 0.5},
    "distill-10": {"method": "distill", "text_share": 0.0, "top_k": 10},
    "distill-lora": {"method": "distill", "text_share": 0.0, "adapters": True},
}


def recipe(way: str) -> Recipe:
    """The recipe of a row."""
    teacher = {"teacher": "given"} if WAYS[way]["method"] == "distill" else {}
    return recipe_of(build(RecoverConfig, {"model": "given", **teacher, **WAYS[way]}))


"""``distill``: the teacher's predictions alone; ``half``: as much of the text's loss; ``distill-10``: ten tokens."""
RATES = {"lora": 1e-3, "full": 3e-4, "distill": 3e-4, "half": 3e-4, "distill-10": 3e-4, "distill-lora": 1e-3}
Row = dict[str, Any]


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
    dense = load(model, dtype="float32", device="cpu")
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
    lesson = recipe.lesson
    if lesson is None:
        return cross_entropy
    return distillation(teacher(dense.anatomy, lesson.k, lesson.temperature), lesson.share, lesson.temperature)


def trainable(recipe: Recipe, student: Checkpoint, seed: int) -> AbstractContextManager[Any]:
    """What a way may change."""
    return adapted(student.anatomy, recipe.lora, seed) if recipe.lora else everything(student.anatomy)


def run(setup: Setup, way: str, rate: float, ratio: float, seed: int, given: argparse.Namespace) -> Row:
    """Train one model one way."""
    place = pruned(setup, ratio, given.out / "models")
    student, chosen = load(place, dtype="float32", device="cpu"), recipe(way)
    row: Row = {"model": setup.model, "way": way, "rate": rate, "ratio": ratio, "seed": seed, "steps": given.steps}
    row |= {"batch": given.batch, "length": given.length, "parameters": student.anatomy.parameters()}
    row["dense"], row["pruned"] = (perplexity(mean_nll(each.anatomy, setup.heldout)) for each in (setup.dense, student))
    folder = given.out / "runs" / "-".join(str(row[key]) for key in ("model", "way", "rate", "ratio", "seed", "steps"))
    plan = chosen.training(
        len(setup.training), given.steps, seed=seed, evaluate_every=max(1, given.steps // 4), save_minutes=1.0
    )
    plan = replace(plan, learning_rate=rate, batch=given.batch)
    start = time.process_time()
    with trainable(chosen, student, seed):
        lines = train(student.anatomy, loss_of(chosen, setup.dense), setup.training, plan, folder, row, setup.heldout)
        row["processor_seconds"] = time.process_time() - start
        row["recovered"] = perplexity(mean_nll(student.anatomy, setup.heldout))
        row["calibration"] = perplexity(mean_nll(student.anatomy, setup.calibration))
    row["curve"] = [[line["step"], perplexity(line["heldout"])] for line in lines if "heldout" in line]
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


def page(rows: Sequence[Row]) -> Iterator[str]:
    """A table of one model: mean over seeds, and each seed where there are several."""
    yield f"\n## {rows[0]['model']}: {rows[0]['steps']} steps of {rows[0]['batch']} windows of {rows[0]['length']}\n"
    names = ["removed", "way", "rate", "unpruned", "pruned", "recovered", "came back", "in a quarter", "CPU minutes"]
    yield from (f"| {' | '.join(names)} |", "|---" * len(names) + "|")
    for name in dict.fromkeys((row["ratio"], row["way"], row["rate"]) for row in rows):
        same = [row for row in rows if (row["ratio"], row["way"], row["rate"]) == name]
        shares = [came_back(row, row["recovered"]) for row in same]
        early = statistics.fmean(came_back(row, row["curve"][1][1]) for row in same)
        each = f" ({', '.join(f'{share:.0%}' for share in shares)})" if len(shares) > 1 else ""
        figures = [statistics.fmean(row[key] for row in same) for key in ("dense", "pruned", "recovered")]
        minutes = statistics.fmean(row["processor_seconds"] for row in same) / 60
        cells = [f"{name[0]:.0%}", name[1], f"{name[2]:g}", *(f"{value:.2f}" for value in figures)]
        cells += [f"{statistics.fmean(shares):.0%}{each}", f"{early:.0%}", f"{minutes:.1f}"]
        yield f"| {' | '.join(cells)} |"


def measure(model: str, given: argparse.Namespace) -> list[Row]:
    """The rows of a model: those that are there, and those that were missing."""
    file = given.out / "rows.jsonl"
    if file.exists():
        drop_torn_line(file)
    known = {tuple(row[key] for key in KEYS): row for row in (read_lines(file) if file.exists() else [])}
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default=DEMO)
    parser.add_argument("--texts", default="python", metavar="SOURCE")
    parser.add_argument("--held-out", metavar="SOURCE")
    parser.add_argument(
        "--samples", type=int, default=200, help="texts to calibrate on; eight times as many to train on"
    )
    parser.add_argument("--windows", type=int, default=24, help="of calibration text")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.25, 0.35])
    parser.add_argument("--ways", nargs="+", default=["lora", "full", "distill"], choices=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rate", nargs="*", default=[], metavar="WAY=RATE")
    parser.add_argument("--pilot", nargs="*", type=float, default=[], metavar="RATE", help="try these on one seed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    print("\n".join(page(measure(given.model, given))), flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
