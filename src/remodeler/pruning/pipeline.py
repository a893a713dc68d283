"""The phases of a pruning job: blocks one by one, swaps that refine them, then heads and channels; any may be left out.

What each finds is on the disk before the next begins, so that a killed job goes on where it was.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from remodeler.model.blocks import bypassed
from remodeler.model.logprobs import mean_nll, perplexity
from remodeler.model.structures import Structure, Widths
from remodeler.model.widths import kept_masks, masked, parameters_left, structures
from remodeler.pruning.config import PruneConfig
from remodeler.pruning.search.loop import Search, prune, record_step, resume_or_start
from remodeler.pruning.search.refine import refine
from remodeler.pruning.width.width import WIDTH_METHODS, WidthResult, thin
from remodeler.reporting.figures import short
from remodeler.runs.progress import Progress, silent
from remodeler.runs.records import read_json, write_json
from remodeler.runs.removals import REMOVALS_FILE, WIDTHS_FILE, Header, Step, blocks_of
from remodeler.runs.units import Block, name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What goes, and what the rest is worth on the calibration text."""

    removed: list[Block]
    widths: Widths
    perplexity: float
    seconds: float
    kept: Mapping[Block, tuple[int, int]]
    """By block whose width was chosen: groups that stay, groups there were."""


def run_phases(
    search: Search, config: PruneConfig, header: Header, work: Path | None, progress: Progress = silent
) -> Outcome:
    """All phases of a config; every process goes the same way, and the first of several gives a folder to write in."""
    log = work / REMOVALS_FILE if work else None
    search = replace(search, progress=progress, on_step=_log_step if work else None)
    if config.width_method is None:
        steps = _blocks(search, config, log, header)
        seconds = sum(step.seconds for step in steps)
        return Outcome(blocks_of(steps), {}, steps[-1].perplexity if steps else 0.0, seconds, {})
    if config.search.method in WIDTH_METHODS:
        logged = bool(resume_or_start(search, log, header)[1])
        return _widths(search, config, [], work, logged)
    steps = _blocks(replace(search, budget=config.blocks_budget()), config, log, header)
    return _widths(search, config, steps, work, logged=True)


def _blocks(search: Search, config: PruneConfig, log: Path | None, header: Header) -> list[Step]:
    """The search, and its refinement where it is wanted."""
    steps = prune(search, log, header)
    return refine(search, steps, log) if config.search.refine and steps else steps


def _log_step(step: Step) -> None:
    with_again = f"with {name(step.restored)} again, " * bool(step.restored)
    size = short(step.parameters)
    logger.info(f"{step.step:4d}. {with_again}without {name(step.removed)}: perplexity {step.perplexity:.4g}, {size}")


# Heads and channels ---------------------------------------------------------------------------------------------------


def _widths(search: Search, config: PruneConfig, steps: Sequence[Step], work: Path | None, logged: bool) -> Outcome:
    """The width phase behind the steps of a search, down to the budget of both; blocks that it takes are logged."""
    method = config.width_method
    assert method
    start, gone = time.perf_counter(), blocks_of(steps)
    found = thin(
        search.anatomy,
        search.windows,
        gone,
        search.budget.ratio or 0.0,
        method,
        folder=work,
        seed=search.seed,
        size=search.size,
        options=config.width.options(),
        progress=search.progress,
    )
    value = calibration(search, found.removed, found.widths)
    seconds = time.perf_counter() - start
    new = [block for block in found.removed if block not in gone]
    if new and not logged:
        record_step(search, work / REMOVALS_FILE if work else None, _one_step(search, found, new, value, seconds))
    if work:
        write_widths(work, found.widths)
        left = parameters_left(search.anatomy, found.removed, found.widths)
        logger.info(f"{method}: perplexity {value:.4g}, {short(left)}")
    seconds += sum(step.seconds for step in steps)
    return Outcome(list(found.removed), found.widths, value, seconds, _kept_widths(search, found))


def write_widths(folder: Path, widths: Widths) -> None:
    """Write down which heads and channels stay."""
    write_json(folder / WIDTHS_FILE, {str(block): list(groups) for block, groups in widths.items()})


def read_widths(folder: Path) -> Widths:
    """The heads and channels that stay, where a search chose some; none named keeps all."""
    file = folder / WIDTHS_FILE
    given = read_json(file) if file.is_file() else {}
    return {Block.parse(name): tuple(groups) for name, groups in given.items()}


def calibration(search: Search, removed: Sequence[Block], widths: Widths) -> float:
    """Perplexity on the calibration text without some blocks and groups."""
    masks = kept_masks(search.anatomy, widths)
    with masked(search.anatomy, masks), bypassed(search.anatomy, removed):
        return perplexity(mean_nll(search.anatomy, search.windows, search.size))


def _one_step(search: Search, found: WidthResult, new: Sequence[Block], value: float, seconds: float) -> Step:
    """Blocks that were chosen all at once, as a line of the log."""
    scores: dict[str, float | None] = {str(block): each.item() for block, each in found.scores.items()}
    left = search.anatomy.parameters(found.removed)
    return Step(1, tuple(new), scores, value, left, round(seconds, 3))


def _kept_widths(search: Search, found: WidthResult) -> dict[Block, tuple[int, int]]:
    if not found.widths:
        return {}
    every: dict[Block, Structure] = structures(search.anatomy)
    left = {block: each for block, each in every.items() if block not in found.removed}
    return {block: (len(found.widths.get(block, range(s.groups))), s.groups) for block, s in left.items()}
