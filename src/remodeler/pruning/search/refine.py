"""Refinement: after the greedy search, swap one removed unit back for another while the perplexity falls.

A greedy path never takes a removal back, though a block that was worthless in the intact model may be missed once its
neighbours are gone. Ours, of the kind of a 1-exchange local search: put a removed unit back, measure all candidates
(one sweep), and remove the best of them instead. Removed units are tried from the oldest; after a swap, from the oldest
again; when none is worth swapping, the search is done. No swap leaves a larger model than the budget asks for, and each
lowers the exact calibration perplexity, so it ends.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from remodeler.pruning.methods import METHODS
from remodeler.pruning.search.budget import share
from remodeler.pruning.search.loop import Search, importance, record_step, step_of
from remodeler.pruning.search.strategies import Scores
from remodeler.runs import processes
from remodeler.runs.progress import Progress, part
from remodeler.runs.removals import Step, blocks_of, units_of
from remodeler.runs.units import Block, Unit


def refine(search: Search, steps: Sequence[Step], log: Path | None = None) -> list[Step]:
    """The steps of a finished search, and the swaps that lower its calibration perplexity; each goes into the log.

    Killed and started again on the log, it repeats the trials since the last swap and ends with the same swaps.
    """
    log = log if processes.is_first() else None
    search = replace(search, method=replace(METHODS["blockpruner"], protect=search.method.protect))
    path = list(steps)
    while swap := _first_swap(search, path):
        path.append(swap)
        record_step(search, log, swap)
    return path


def _first_swap(search: Search, steps: Sequence[Step]) -> Step | None:
    """The first removed unit that is worth putting back, as a step; None when there is none."""
    units = units_of(steps)
    for number, unit in enumerate(units):
        start = time.perf_counter()
        scores = _without(search, steps, unit, _trial_progress(search, steps, number / len(units), 1 / len(units)))
        best = min(scores.importance, key=lambda each: scores.importance[each], default=unit)
        if best != unit and scores.importance[best] < steps[-1].perplexity:
            return step_of(search, steps, best, scores, scores.importance[best], start, restored=unit)
    return None


def _without(search: Search, steps: Sequence[Step], unit: Unit, progress: Progress) -> Scores:
    """Perplexity of every set of removals in which something else goes for one unit, or the unit itself again."""
    gone = blocks_of(steps)
    back = [block for block in gone if block not in unit]
    units = [each for each in search.units(back) if _small_enough(search, gone, [*back, *each])]
    return importance(search, back, units, progress)


def _small_enough(search: Search, now: Sequence[Block], then: Sequence[Block]) -> bool:
    """A ratio leaves what was removed beyond it to spare; other budgets leave nothing."""
    gone = share(search.anatomy, now)
    return share(search.anatomy, then) >= min(gone, search.budget.ratio or gone)


def _trial_progress(search: Search, steps: Sequence[Step], begin: float, width: float) -> Progress:
    swaps = sum(bool(step.restored) for step in steps)
    words = f"refining, {swaps} swap{'s' * (swaps != 1)}, perplexity {steps[-1].perplexity:.4g}"
    return part(search.progress, begin, width, words)
