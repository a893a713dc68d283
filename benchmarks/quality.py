"""What pruning costs: held-out perplexity of BlockPruner's search against simpler ones, at the same sizes.

Claim (arXiv 2406.10594): removing blocks one by one, scored again after every removal, costs less than ranking them
once (``one-shot``), than removing whole layers one by one (``layer``), and than a random order (three seeds).

The layers' search is coarse: it passes a wanted ratio by up to a layer. So ``blockpruner*`` is the same path as
``blockpruner``, cut where it has removed at least as much as the layers' search has. The search weighs no sizes: a
small attention and a large MLP compete on perplexity alone. ``mlp``, the same search among MLPs only, shows what that
costs.

Every finished row is a line of ``OUT/rows.jsonl`` and every search a removal log in ``OUT/paths``: killed, the same
command goes on.

    python benchmarks/quality.py MODEL ... --calibrate FILE --held-out FILE ... --out OUT --plot tradeoff.svg
"""

import argparse
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import (
    DEMO,
    Row,
    add_loading,
    add_numbers,
    add_paths,
    load_float32,
    new_parser,
    publish,
    read_rows,
    run_main,
)
from quality_tables import plot, tables

from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.cli.screen import note
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.evaluation.metrics import model_windows
from remodeler.model.blocks import bypassed
from remodeler.model.logprobs import bits_per_byte, mean_nll, perplexity
from remodeler.pruning.config import Budget
from remodeler.pruning.methods import METHODS, Method
from remodeler.pruning.search.budget import share, steps_for_budget
from remodeler.pruning.search.candidates import longest_path
from remodeler.pruning.search.loop import Search, prune
from remodeler.runs.records import append_line
from remodeler.runs.removals import Header, Step, blocks_of, read_log
from remodeler.runs.units import Block, name

SAMPLES = 400
"""Texts that the windows are cut from."""
GROUP = 4
"""Windows scored together: losses are kept by group, so that two models can be compared in pairs."""


@dataclass(frozen=True)
class Arm:
    """One way to choose what goes."""

    name: str
    method: Method
    seed: int = 0

    @property
    def file(self) -> str:
        """Name of its removal log."""
        return f"{self.name}-{self.seed}.jsonl"


LAYER = Arm("layer", replace(METHODS["blockpruner"], unit="layer"))
BLOCKS = Arm("blockpruner", METHODS["blockpruner"])
MLPS = Arm("mlp", replace(METHODS["blockpruner"], unit="mlp"))
RANDOM = tuple(Arm("random", METHODS["random"], seed) for seed in (1, 2, 3))
WEIGHTED = Arm("size-weighted", METHODS["size-weighted"])
ARMS = (LAYER, BLOCKS, Arm("one-shot", METHODS["one-shot"]), *RANDOM, MLPS, WEIGHTED)


@dataclass(frozen=True)
class Searched:
    """A search that was made, as far as it was asked to go."""

    arm: Arm
    header: Header
    steps: list[Step]


@dataclass(frozen=True)
class Setup:
    """A model and the text it is calibrated and judged on."""

    checkpoint: Checkpoint
    calibration: Windows
    held_out: dict[str, Windows]
    """By the name of the text."""

    @property
    def model(self) -> str:
        """Short name: that of its folder."""
        return Path(self.checkpoint.name).name


# ---- texts -----------------------------------------------------------------------------------------------------------


def cut(checkpoint: Checkpoint, texts: Sequence[str], length: int, count: int) -> Windows:
    """The first windows of some texts. Texts are joined by blank lines, so that one can be cut at its own."""
    pieces = "\n\n".join(texts).split("\n\n")
    enough = bisect_left(range(len(pieces)), count, key=lambda last: _count(checkpoint, pieces[: last + 1], length))
    return model_windows(checkpoint, pieces[: enough + 1], length)


def _count(checkpoint: Checkpoint, pieces: Sequence[str], length: int) -> int:
    try:
        return len(model_windows(checkpoint, pieces, length))
    except InputError:  # not one window yet
        return 0


def prepare(model: str, given: argparse.Namespace) -> Setup:
    """Load a model and cut its windows; the held-out part of a source is disjoint from its calibration part."""
    checkpoint = load_float32(model, given)
    calibration = cut(checkpoint, sample(given.calibrate, SAMPLES).calibration, given.length, given.windows)
    held_out = {
        Path(source).name: cut(checkpoint, sample(source, SAMPLES).heldout, given.length, given.held_out_windows)
        for source in given.held_out
    }
    return Setup(checkpoint, calibration, held_out)


# ---- searching -------------------------------------------------------------------------------------------------------


def search(setup: Setup, arm: Arm, ratio: float, folder: Path) -> Searched:
    """A path to the ratio, or as far as blocks allow."""
    anatomy = setup.checkpoint.anatomy
    plan = Search(anatomy, setup.calibration, Budget(ratio=ratio), arm.method, arm.method.unit, seed=arm.seed)
    reach = share(
        anatomy, [block for unit in longest_path(plan.anatomy, plan.unit, plan.shape, plan.method) for block in unit]
    )
    header = {
        "model": {"weights": fingerprint(setup.checkpoint.model)},
        "texts": {"sha256": setup.calibration.fingerprint()},
        "options": {"method": arm.name, "seed": arm.seed},
    }
    folder.mkdir(parents=True, exist_ok=True)
    prune(replace(plan, budget=Budget(ratio=min(ratio, reach))), folder / arm.file, header)
    return Searched(arm, *read_log(folder / arm.file))


def paths(setup: Setup, ratios: Sequence[float], folder: Path) -> Iterator[Searched]:
    """Every arm's path. The layers' goes first: the others go on to the size where it ends."""
    deepest = max(ratios)
    for arm in ARMS:
        path = search(setup, arm, deepest, folder)
        deepest = max(deepest, *_shares(setup, [path], max(ratios)))
        note(f"{setup.model}, {arm.name} {arm.seed or ''}: {len(path.steps)} steps")
        yield path


def _shares(setup: Setup, found: Sequence[Searched], ratio: float) -> list[float]:
    """What a path has removed when it reaches a ratio; nothing where it doesn't."""
    removed = [reached(setup, path, ratio) for path in found]
    return [share(setup.checkpoint.anatomy, blocks_of(steps)) for steps in removed if steps is not None] or [0.0]


def reached(setup: Setup, path: Searched, ratio: float) -> list[Step] | None:
    """The part of a path that reaches a ratio; None where blocks don't allow it."""
    try:
        return steps_for_budget(setup.checkpoint.anatomy, path.header, path.steps, Budget(ratio=ratio))
    except InputError:
        return None


# ---- measuring -------------------------------------------------------------------------------------------------------


def losses(setup: Setup, text: str, removed: Sequence[Block]) -> list[float]:
    """Mean negative log-likelihood of every group of windows."""
    anatomy, windows = setup.checkpoint.anatomy, setup.held_out[text]
    with bypassed(anatomy, removed):
        return [mean_nll(anatomy, windows[start : start + GROUP]) for start in range(0, len(windows), GROUP)]


def scores(setup: Setup, text: str, steps: Sequence[Step]) -> Row:
    """What a model without some blocks is worth on a text."""
    windows, found = setup.held_out[text], losses(setup, text, blocks_of(steps))
    sizes = [windows[start : start + GROUP].tokens for start in range(0, len(windows), GROUP)]
    nll = math.fsum(loss * size for loss, size in zip(found, sizes, strict=True)) / sum(sizes)
    measures = {"perplexity": perplexity(nll), "bits_per_byte": bits_per_byte(nll, windows)}
    return measures | {"tokens": windows.tokens, "losses": found}


def wanted(
    setup: Setup, found: Sequence[Searched], ratios: Sequence[float]
) -> Iterator[tuple[str, float, Searched, float]]:
    """Name of the row, ratio of its column, path, and ratio to cut that at."""
    layers, blocks = found[0], found[1]
    for ratio in ratios:
        yield from ((path.arm.name, ratio, path, ratio) for path in found)
        if reached(setup, layers, ratio):
            yield "blockpruner*", ratio, blocks, _shares(setup, [layers], ratio)[0]


def measure(setup: Setup, given: argparse.Namespace) -> None:
    """Write the rows of a model that are not there yet."""
    file = given.out / "rows.jsonl"
    known = {key(row): row for row in read_rows(file)}
    dense = Searched(Arm("dense", BLOCKS.method), {}, [])
    found = list(paths(setup, given.ratios, given.out / "paths" / setup.model))
    for method, ratio, path, exact in [("dense", 0.0, dense, 0.0), *wanted(setup, found, given.ratios)]:
        steps = [] if path is dense else reached(setup, path, exact)
        for text, windows in setup.held_out.items():
            row = {"model": setup.model, "method": method, "seed": path.arm.seed, "ratio": ratio, "text": text}
            row["windows"] = windows.fingerprint()[:12]
            if key(row) not in known:
                row |= _complete(setup, text, path, steps)
                append_line(file, row)
                note(f"{setup.model}, {text}: {method} {path.arm.seed or ''} {ratio:.0%}: {row['perplexity']}")


def key(row: Row) -> tuple[Any, ...]:
    """What makes a row another row."""
    return tuple(row[part] for part in ("model", "method", "seed", "ratio", "text", "windows"))


def _complete(setup: Setup, text: str, path: Searched, steps: Sequence[Step] | None) -> Row:
    anatomy = setup.checkpoint.anatomy
    if steps is None:
        return {"share": share(anatomy, blocks_of(path.steps)), "perplexity": None}
    size = {"share": share(anatomy, blocks_of(steps)), "parameters": anatomy.parameters(blocks_of(steps))}
    removed = {
        "removed": [name(step.removed) for step in steps],
        "calibration": steps[-1].perplexity if steps else None,
    }
    return size | removed | scores(setup, text, steps)


def main() -> None:
    """Measure what is missing, then print the tables."""
    parser = new_parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=[str(DEMO)])
    parser.add_argument("--calibrate", default="python", metavar="SOURCE")
    parser.add_argument("--held-out", nargs="+", default=["python"], metavar="SOURCE")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.15, 0.25, 0.35])
    parser.add_argument("--windows", type=int, default=24, help="of calibration text")
    add_numbers(parser, held_out_windows=32, length=256, threads=1)
    add_loading(parser)
    add_paths(parser, "out")
    parser.add_argument("--plot", type=Path, help=".svg or .png: the curves of the last model on its first text")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for model in given.models:
        setup = prepare(model, given)
        measure(setup, given)
        rows = [row for row in read_rows(given.out / "rows.jsonl") if row["model"] == setup.model]
        print(f"\n## {setup.model}")
        publish(given, dict(tables(rows)), setup.model)
    if given.plot:
        plot(rows, Path(given.held_out[0]).name, given.plot)


if __name__ == "__main__":
    run_main(main)
