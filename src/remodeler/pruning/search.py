"""prune: score, remove the least important, write it down, repeat (BlockPruner, arXiv 2406.10594, algorithm 1).

Each step is on the disk before the next one starts. A search that finds a log of the same model, texts and options
goes on behind its last line, and ends with the same removals.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

from remodeler import processes
from remodeler.blocks import Anatomy, Block, bypassed
from remodeler.errors import InputError
from remodeler.logprobs import mean_nll, perplexity
from remodeler.pruning import criteria
from remodeler.pruning.budget import Budget, check_reach, done, exceeds, expected_steps, used, within
from remodeler.pruning.criteria import METHODS, Method
from remodeler.pruning.log import Header, Step, blocks_of, name, take_up
from remodeler.pruning.sweep import Unit, order
from remodeler.records import append_line
from remodeler.texts import Windows

Shape = Literal["free", "standard"]
Listener = Callable[[float, str], None]
"""Told the share of the search that is done, and where it stands in words."""


@dataclass(frozen=True)
class Search:
    """What to remove, from what, by what measure, until when."""

    anatomy: Anatomy
    windows: Windows
    budget: Budget
    method: Method = METHODS["blockpruner"]
    unit: str = "block"
    """``block``, ``attention``, ``mlp`` or ``layer``."""
    shape: Shape = "free"
    """``standard`` removes neighbouring pairs only, so that what is left is a stock model."""
    seed: int = 42
    size: int | None = None
    """Windows a mini-batch; by default chosen for the device."""
    listen: Listener | None = field(default=None, repr=False)
    tell: Callable[[Step], None] | None = field(default=None, repr=False)
    """Told every step when it is done."""


def prune(search: Search, log: Path | None = None, header: Header | None = None) -> list[Step]:
    """Find the units to remove, one a step; the model is left as it was.

    Args:
        search: what to do.
        log: the removal log, made or taken up.
        header: what identifies model, texts and options in the log.

    Raises:
        InputError: when the budget can't be met, the log belongs to another search, or no loss is finite.
    """
    check(search)
    log = log if processes.first() else None
    found = processes.shared(take_up(log, header or {}) if log else None)
    first, steps = found or (processes.shared(_begin(search, log, header or {})), [])
    dense = first["perplexity"]
    steps = within(search.anatomy, search.budget, dense, steps)
    once: dict[str, float] = {}
    while not done(search.anatomy, search.budget, steps):
        start = time.perf_counter()
        scores = _scores(search, steps, _ear(search, dense, steps), once)
        if not scores:
            break
        best = min(scores, key=lambda each: scores[each])
        after = _perplexity(search, [*blocks_of(steps), *best], scores[best])
        if exceeds(search.budget, dense, after):
            break
        written = {name(each): score if math.isfinite(score) else None for each, score in scores.items()}
        left = search.anatomy.parameters([*blocks_of(steps), *best])
        seconds = round(time.perf_counter() - start, 3)
        steps.append(Step(len(steps) + 1, best, written, after, left, seconds))
        if log:
            append_line(log, steps[-1].line())
        if search.tell:
            search.tell(steps[-1])
    if search.budget.max_increase is None and not done(search.anatomy, search.budget, steps):
        raise InputError(f"nothing is left to remove after {len(steps)} steps, too early {search.budget}: ask for less")
    return steps


def check(search: Search) -> None:
    """Refuse what the search could not reach, before it starts."""
    check_reach(search.anatomy, search.budget, longest_path(search), search.unit)


def estimate(search: Search, pass_seconds: float) -> tuple[int, float]:
    """Number of candidates at first, and about how many seconds the search takes, from those of one plain pass."""
    units = len(candidates(search.anatomy, search.unit, search.shape))
    steps = expected_steps(search.anatomy, search.budget, units)
    sweeps = steps if search.method.iterative else 1
    if search.method.criterion is criteria.random:
        return units, steps * pass_seconds
    return units, sum(0.6 * max(1, units - k) for k in range(sweeps)) * pass_seconds


def _begin(search: Search, log: Path | None, header: Header) -> Header:
    start = time.perf_counter()
    dense = perplexity(mean_nll(search.anatomy, search.windows, search.size))
    blocks = len(search.anatomy.blocks())
    first = {"step": 0, "perplexity": dense, "parameters": search.anatomy.parameters(), "candidates": blocks}
    first |= {**header, "seconds": round(time.perf_counter() - start, 3)}
    if log:
        append_line(log, first)
    return first


def _scores(
    search: Search, steps: Sequence[Step], hear: Callable[[float], None], once: dict[str, float]
) -> dict[Unit, float]:
    """Importance of every candidate; that in the intact model, found only once, where the method is not iterative."""
    removed = blocks_of(steps)
    units = candidates(search.anatomy, search.unit, search.shape, removed)
    if search.method.iterative:
        return dict(zip(units, _importance(search, removed, units, hear), strict=True))
    unknown = [unit for unit in units if name(unit) not in once]  # all at first; then pairs that a removal made
    if unknown:
        once |= zip(map(name, unknown), _importance(search, [], unknown, hear), strict=True)
    return {unit: once[name(unit)] for unit in units}


def _importance(
    search: Search, removed: Sequence[Block], units: Sequence[Unit], hear: Callable[[float], None]
) -> list[float]:
    options = {"size": search.size, "progress": hear, "seed": search.seed}
    values = search.method.criterion(search.anatomy, search.windows, removed, units, **options)
    if units and not any(math.isfinite(value) for value in values):
        raise InputError(
            "no candidate's loss is finite: the weights are damaged or too large for this --dtype, try --dtype float32"
        )
    return values


def _perplexity(search: Search, removed: Sequence[Block], score: float) -> float:
    """What the model is worth after the step: known already where that is the importance."""
    if search.method.iterative and search.method.criterion is criteria.perplexity:
        return score
    with bypassed(search.anatomy, removed):
        return perplexity(mean_nll(search.anatomy, search.windows, search.size))


def _ear(search: Search, dense: float, steps: Sequence[Step]) -> Callable[[float], None]:
    """Turn the share of a step that is done into the share of the search."""
    now = steps[-1].perplexity if steps else dense
    begin = used(search.anatomy, search.budget, dense, steps)
    units = len(candidates(search.anatomy, search.unit, search.shape))
    width = 1 / expected_steps(search.anatomy, search.budget, units)
    words = f"step {len(steps) + 1}, perplexity {now:.4g}"
    return lambda part: search.listen(min(1.0, begin + width * part), words) if search.listen else None


# Candidates -----------------------------------------------------------------------------------------------------------


def candidates(anatomy: Anatomy, unit: str, shape: Shape = "free", removed: Sequence[Block] = ()) -> list[Unit]:
    """What may go next, in the official code's order: all attentions, then all MLPs, ascending; ties go to the first.

    The last attention stays: a model without any could not be written.
    """
    gone = set(removed)
    left = [block for block in anatomy.blocks() if block not in gone]
    units = _pairs(anatomy, left) if shape == "standard" else _units(left, unit)
    attentions = sum(block.kind == "attention" for block in left)
    return [each for each in units if sum(block.kind == "attention" for block in each) < max(attentions, 1)]


def _units(left: Sequence[Block], unit: str) -> list[Unit]:
    if unit != "layer":
        return [(block,) for block in left if unit in ("block", block.kind)]
    numbers = sorted({block.layer for block in left})
    layers = [tuple(sorted(block for block in left if block.layer == number)) for number in numbers]
    return [blocks for blocks in layers if {"attention", "mlp"} <= {block.kind for block in blocks}]


def _pairs(anatomy: Anatomy, left: Sequence[Block]) -> list[Unit]:
    """Neighbours in the order of computation, an attention and an MLP: without any two the rest still pairs up."""
    sequence = sorted(left, key=lambda block: order(anatomy, block))
    pairs = [(a, b) for a, b in pairwise(sequence) if {a.kind, b.kind} == {"attention", "mlp"}]
    return [(a, b) for a, b in pairs if a.layer == b.layer or not anatomy.parallel]


def longest_path(search: Search) -> list[Unit]:
    """A path that removes as much as any: MLPs first, since the last attention must stay."""
    path: list[Unit] = []
    removed: list[Block] = []
    while units := candidates(search.anatomy, search.unit, search.shape, removed):
        path.append(units[-1])
        removed += units[-1]
    return path
