"""prune: score, remove the least important, write it down, repeat (BlockPruner, arXiv 2406.10594, algorithm 1).

Each step is on the disk before the next one starts. A search that finds a log of the same model, texts and options
goes on behind its last line, and ends with the same removals.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remodeler.data.windows import Windows
from remodeler.errors import InputError, quantity
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll, perplexity
from remodeler.pruning import methods
from remodeler.pruning.config import Budget, Shape
from remodeler.pruning.methods import METHODS, Method
from remodeler.pruning.search.budget import check_reach, done, exceeds, expected_steps, share_used, steps_within
from remodeler.pruning.search.candidates import candidates, longest_path
from remodeler.pruning.search.lazy import NOTHING_KNOWN, bounds_of
from remodeler.pruning.search.strategies import STRATEGIES, Scores, recall, remember
from remodeler.runs import processes
from remodeler.runs.progress import Progress, part, silent
from remodeler.runs.removals import Header, Step, blocks_of, resume_log, write_header, write_step
from remodeler.runs.units import Block, Unit, name

COSTS = {"exact": 0.6, "race": 0.2, "lazy": 0.2, "propose": 0.3}
"""What a candidate costs, in plain passes over the text: for estimates of time; of a lazy search in its first step."""
LAZY_STEP = 3.5
"""What each later step of a lazy search costs, in such passes: few candidates, however many there are."""


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
    """``standard`` removes neighbouring pairs only, so that what is left is a stock model; ``deci`` leaves what DeciLM
    holds: an MLP behind every attention, and an attention at the start."""
    seed: int = 42
    size: int | None = None
    """Windows per mini-batch; by default chosen for the device."""
    strategy: str = "exact"
    """How the candidates of a step are measured: ``exact``, ``race`` or ``propose``."""
    error: float = 0.01
    """Of a race: probability, over the whole search, that it drops a candidate which is the best."""
    progress: Progress = field(default=silent, repr=False)
    on_step: Callable[[Step], None] | None = field(default=None, repr=False)
    """Receives every step when it is done."""

    def units(self, removed: Sequence[Block] = ()) -> list[Unit]:
        """What may go next."""
        return candidates(self.anatomy, self.unit, self.shape, removed, self.method)

    @property
    def by_perplexity(self) -> bool:
        """Whether the importance of what goes is the model's perplexity after the step."""
        return self.method.iterative and self.method.criterion is methods.perplexity


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
    log = log if processes.is_first() else None
    first, steps = resume_or_start(search, log, header or {})
    dense = first["perplexity"]
    steps = steps_within(search.anatomy, search.budget, dense, steps)
    intact_scores: dict[str, float] = {}
    past_races = recall(log, len(steps)) if search.strategy in ("race", "lazy") else []
    while not done(search.anatomy, search.budget, steps):
        start = time.perf_counter()
        bounds = bounds_of(dense, steps) if search.strategy == "lazy" else NOTHING_KNOWN
        known: dict[str, Any] = {"past_races": past_races, "bounds": bounds}
        scores = _scores(search, steps, _step_progress(search, dense, steps), intact_scores, known)
        if not scores.importance:
            break
        best = min(scores.importance, key=lambda each: scores.importance[each])
        after = _perplexity(search, [*blocks_of(steps), *best], scores.importance[best])
        if exceeds(search.budget, dense, after):
            break
        steps.append(step_of(search, steps, best, scores, after, start))
        remember(log, len(steps), past_races)
        record_step(search, log, steps[-1])
    if search.budget.max_perplexity_increase is None and not done(search.anatomy, search.budget, steps):
        taken = quantity(len(steps), "step")
        raise InputError(f"nothing is left to remove after {taken}, too early {search.budget}: ask for less")
    return steps


def step_of(
    search: Search,
    steps: Sequence[Step],
    best: Unit,
    scores: Scores,
    after: float,
    start: float,
    restored: Unit = (),
) -> Step:
    """The next line of a log: what goes, and what was known of every candidate."""
    written = {name(each): score if math.isfinite(score) else None for each, score in scores.importance.items()}
    seen = {name(each): count for each, count in scores.windows.items()} or None
    gone = [block for block in blocks_of(steps) if block not in restored]
    left = search.anatomy.parameters([*gone, *best])
    seconds = round(time.perf_counter() - start, 3)
    return Step(len(steps) + 1, best, written, after, left, seconds, restored, seen)


def record_step(search: Search, log: Path | None, step: Step) -> None:
    """Write a step down and say so."""
    if log:
        write_step(log, step)
    if search.on_step:
        search.on_step(step)


def check(search: Search) -> None:
    """Refuse what the search could not reach, before it starts."""
    if search.strategy != "exact" and not search.by_perplexity:
        raise InputError(
            "`search='race'` and propose need a method that removes by perplexity, step by step: "
            "choose `method='blockpruner'` or sleb, or `search='exact'`"
        )
    path = longest_path(search.anatomy, search.unit, search.shape, search.method)
    check_reach(search.anatomy, search.budget, path, search.unit)


def estimate(search: Search, pass_seconds: float) -> tuple[int, float]:
    """Number of candidates at first, and about how many seconds the search takes, from those of one plain pass."""
    units = len(search.units())
    steps = expected_steps(search.anatomy, search.budget, units)
    sweeps = steps if search.method.iterative else 1
    if search.method.criterion in methods.ONE_PASS:
        return units, (steps + 3 * sweeps) * pass_seconds
    return units, sum(step_costs(search.strategy, units, sweeps)) * pass_seconds


def step_costs(strategy: str, units: int, steps: int) -> list[float]:
    """About how many passes over the text each step takes, of so many candidates at first."""
    costs = [COSTS[strategy] * max(1, units - k) for k in range(steps)]
    return [costs[0], *(min(LAZY_STEP, cost) for cost in costs[1:])] if strategy == "lazy" else costs


def resume_or_start(search: Search, log: Path | None, header: Header) -> tuple[Header, list[Step]]:
    """What a log holds, made where there is none: the intact model's perplexity, and the steps that are done."""
    found = processes.from_first(resume_log(log, header) if log and processes.is_first() else None)
    return found or (processes.from_first(_first_line(search, log, header)), [])


def _first_line(search: Search, log: Path | None, header: Header) -> Header:
    start = time.perf_counter()
    dense = perplexity(mean_nll(search.anatomy, search.windows, search.size))
    if not math.isfinite(dense):
        raise InputError(
            "the model's perplexity on the calibration text is no finite number: its weights are damaged or too large "
            "for this `dtype`, try `dtype='float32'`"
        )
    blocks = len(search.anatomy.blocks())
    first: Header = {"step": 0, "perplexity": dense, "parameters": search.anatomy.parameters(), "candidates": blocks}
    first |= header
    first["seconds"] = round(time.perf_counter() - start, 3)
    if log:
        write_header(log, first)
    return first


def _scores(
    search: Search,
    steps: Sequence[Step],
    progress: Progress,
    intact_scores: dict[str, float],
    known: dict[str, Any],
) -> Scores:
    """Importance of every candidate; that in the intact model, found only once, where the method is not iterative."""
    removed = blocks_of(steps)
    units = search.units(removed)
    if search.method.iterative:
        return importance(search, removed, units, progress, **known)
    # All at first; later the pairs that a removal made.
    unknown = [unit for unit in units if name(unit) not in intact_scores]
    if unknown:
        found = importance(search, [], unknown, progress)
        intact_scores |= {name(unit): value for unit, value in found.importance.items()}
    return Scores({unit: intact_scores[name(unit)] for unit in units})


def importance(
    search: Search,
    removed: Sequence[Block],
    units: Sequence[Unit],
    progress: Progress,
    **known: Any,
) -> Scores:
    """How important each of some units is in the model without ``removed``, as the search measures it.

    A strategy takes into account what is known of earlier steps: a race the ``past_races``, which it joins; a lazy one
    also the ``bounds``.

    Raises:
        InputError: when no number is finite.
    """
    options: dict[str, Any] = {"size": search.size, "progress": progress, "seed": search.seed}
    if search.strategy == "exact":
        values = search.method.criterion(search.anatomy, search.windows, removed, units, **options)
        scores = Scores(dict(zip(units, values, strict=True)))
    else:
        expected = expected_steps(search.anatomy, search.budget, len(search.units()))
        options |= {"error": search.error / expected, **known}
        scores = STRATEGIES[search.strategy](search.anatomy, search.windows, removed, units, **options)
    if units and not any(map(math.isfinite, scores.importance.values())):
        raise InputError(
            "no candidate's loss is finite: the weights are damaged or too large for this `dtype`, "
            "try `dtype='float32'`"
        )
    return scores


def _perplexity(search: Search, removed: Sequence[Block], score: float) -> float:
    """What the model is worth after the step: known already where that is the importance."""
    if search.by_perplexity:
        return score
    with bypassed(search.anatomy, removed):
        return perplexity(mean_nll(search.anatomy, search.windows, search.size))


def _step_progress(search: Search, dense: float, steps: Sequence[Step]) -> Progress:
    """Progress of the search, from that of its next step: shares of its time, as far as that is known ahead."""
    now = steps[-1].perplexity if steps else dense
    units = len(search.units())
    costs = step_costs(search.strategy, units, expected_steps(search.anatomy, search.budget, units))
    begin = share_used(search.anatomy, search.budget, dense, steps) * len(costs)
    start, end = (_spent(costs, place) for place in (begin, begin + 1))
    words = f"step {len(steps) + 1}, perplexity {now:.4g}"
    return part(search.progress, start, end - start, words)


def _spent(costs: Sequence[float], place: float) -> float:
    """The share of the costs of all steps that the first ones make, so many and a part of the next."""
    whole = int(min(place, len(costs)))
    rest = (place - whole) * costs[whole] if whole < len(costs) else 0.0
    return (sum(costs[:whole]) + rest) / sum(costs)
