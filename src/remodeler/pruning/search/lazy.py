"""Race only those candidates that can be the best, by what earlier steps found of them.

A greedy search scores again after every step, but a block's importance rarely falls when others go; lazy greedy
(Minoux 1978) keeps the last score of each candidate as a bound and asks the most promising ones only. Here the bound
is the rise of the loss that a candidate brought when it was last measured. Perplexity is not submodular, so bounds do
fall: how far, the search itself shows in every step, and that is the margin. A candidate is raced when its bound, less
the largest fall of the last two steps for each step since it was measured, is below the favourite's bound; and
afterwards, where it is below what the winner really costs. All are raced in the first step, and a quarter at least in
the next, which knows no falls yet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy
from remodeler.pruning.search.racing import Raced, Table, race
from remodeler.runs.progress import Progress, part, silent
from remodeler.runs.removals import Step
from remodeler.runs.units import Block, Unit, name

FEWEST = 6
"""Candidates that are raced at least: among the first five by their bounds was every best one of our trials."""
FIRST_SHARE = 0.25
"""Of all, while no fall was seen."""
RECENT = 2
"""Steps whose falls count."""


@dataclass(frozen=True)
class Bounds:
    """What the steps before know of the candidates of the next one."""

    base: float
    """Log-perplexity of the model as it is."""
    rises: dict[str, float]
    """By unit's name: rise of the loss in nats a token, when it was last measured."""
    ages: dict[str, int]
    """Steps since then; 1 after the step that measured it."""
    margin: float | None
    """Largest fall of a candidate from one measurement to the next, a step, in the last steps; None before any."""

    def lowest(self, unit: Unit) -> float:
        """What a unit may cost at best; nothing is known of one that was never measured."""
        known = self.rises.get(name(unit), -math.inf)
        return known - (self.margin or 0.0) * self.ages.get(name(unit), 1)


NOTHING_KNOWN = Bounds(0.0, {}, {}, None)
"""With it all candidates are raced."""


def bounds_of(dense: float, steps: Sequence[Step]) -> Bounds:
    """The bounds for the step behind some steps.

    Args:
        dense: perplexity of the intact model.
        steps: of the log; each holds the perplexities without the candidates that it measured.
    """
    base, rises, measured = math.log(dense), dict[str, float](), dict[str, int]()
    falls: list[list[float]] = []
    for number, step in enumerate(steps):
        found = {unit: math.log(value) - base for unit, value in step.importance.items() if value is not None}
        falls.append(
            [(rises[unit] - rise) / (number - measured[unit]) for unit, rise in found.items() if unit in rises]
        )
        rises |= found
        measured |= dict.fromkeys(found, number)
        base = math.log(step.perplexity)
    recent = [fall for each in falls[-RECENT:] for fall in each]
    ages = {unit: len(steps) - number for unit, number in measured.items()}
    return Bounds(base, rises, ages, max(0.0, *recent) if recent else None)


def race_lazily(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    units: Sequence[Unit],
    bounds: Bounds,
    *,
    past_races: list[Table],
    progress: Progress = silent,
    **options: Any,
) -> tuple[list[Unit], Raced]:
    """Race the promising ones; then, against the winner, those that its real cost leaves a chance.

    Returns:
        The units that were raced, in their order, and what the race found of each.
    """
    chosen = promising(units, bounds)
    options |= {"past_races": past_races}
    first = 1.0 if len(chosen) == len(units) else 0.9
    found = race(anatomy, windows, removed, chosen, progress=part(progress, 0, first), **options)
    winner = min(range(len(chosen)), key=found.losses.__getitem__)
    cost = found.losses[winner] - bounds.base
    late = [unit for unit in units if unit not in chosen and bounds.lowest(unit) < cost]
    if late:
        again = [unit for unit in units if unit in late or unit == chosen[winner]]
        more = race(anatomy, windows, removed, again, progress=part(progress, first, 1 - first), **options)
        del past_races[-2]  # one table a step is kept beside the log
        found = _joined(units, (chosen, found), (again, more))
        chosen = [unit for unit in units if unit in {*chosen, *again}]
    progress(1.0, "")
    return chosen, found


def promising(units: Sequence[Unit], bounds: Bounds) -> list[Unit]:
    """Those that may be the best, if none but they fell: in the order of the candidates, by which ties are broken."""
    ranked = sorted(units, key=bounds.lowest)
    favourite = min((bounds.rises[name(unit)] for unit in units if name(unit) in bounds.rises), default=math.inf)
    least = FEWEST if bounds.margin is not None else max(FEWEST, math.ceil(FIRST_SHARE * len(units)))
    chosen = {*ranked[:least], *(unit for unit in units if bounds.lowest(unit) <= favourite)}
    return [unit for unit in units if unit in chosen]


def _joined(units: Sequence[Unit], *races: tuple[Sequence[Unit], Raced]) -> Raced:
    """Two races of one step as one: of a unit that was in both, the later one holds."""
    losses: dict[Unit, float] = {}
    seen: dict[Unit, int] = {}
    for entered, found in races:
        losses |= zip(entered, found.losses, strict=True)
        seen |= zip(entered, found.seen, strict=True)
    raced = [unit for unit in units if unit in losses]
    return Raced([losses[unit] for unit in raced], [seen[unit] for unit in raced])
