"""When a search stops, how far it is, and what no search could reach."""

import math
from collections.abc import Sequence

from remodeler.errors import InputError, option, quantity
from remodeler.model.blocks import Anatomy
from remodeler.pruning.config import Budget
from remodeler.runs.removals import Header, Step, blocks_of
from remodeler.runs.units import Block


def share(anatomy: Anatomy, removed: Sequence[Block]) -> float:
    """Share of the parameters that goes with some blocks; of a model of text and images, of the text part's."""
    carried = anatomy.carried_parameters()
    return 1 - (anatomy.parameters(removed) - carried) / (anatomy.parameters() - carried)


def done(anatomy: Anatomy, budget: Budget, steps: Sequence[Step]) -> bool:
    """Whether the budget is used up."""
    if budget.remove is not None:
        return removals(steps) >= budget.remove
    return budget.ratio is not None and share(anatomy, blocks_of(steps)) >= budget.ratio


def removals(steps: Sequence[Step]) -> int:
    """How many units went; a swap of one for another is none."""
    return sum(not step.restored for step in steps)


def exceeds(budget: Budget, dense: float, perplexity: float) -> bool:
    """Whether a step costs more than the budget allows."""
    return budget.max_perplexity_increase is not None and not perplexity <= dense * (1 + budget.max_perplexity_increase)


def check_reach(anatomy: Anatomy, budget: Budget, path: Sequence[Sequence[Block]], unit: str) -> None:
    """Refuse what the longest possible path could not reach."""
    if not path:
        raise InputError(
            f"the model has nothing to remove of unit {unit!r} that the method does not keep: "
            f"choose another {option('unit')} or {option('shape')}, or {option('protect', False)}"
        )
    if budget.remove is not None and budget.remove > len(path):
        raise InputError(
            f"{quantity(budget.remove, 'removal')} asked for, {len(path)} are possible: "
            f"give a smaller {option('remove')}"
        )
    gone = share(anatomy, [block for each in path for block in each])
    if budget.ratio is not None and budget.ratio > gone:
        most = math.floor(1000 * gone) / 10  # what is named can be reached
        raise InputError(
            f"ratio {100 * budget.ratio:.4g}% is beyond what blocks allow, at most {most:g}% of the parameters: "
            f"give a smaller {option('ratio')}, or a number with {option('remove')}"
        )


def share_used(anatomy: Anatomy, budget: Budget, dense: float, steps: Sequence[Step]) -> float:
    """Share of the budget that is used, for the progress bar."""
    if budget.remove is not None:
        return removals(steps) / budget.remove
    if budget.ratio is not None:
        return min(1.0, share(anatomy, blocks_of(steps)) / budget.ratio)
    now = steps[-1].perplexity if steps else dense
    return min(1.0, max(0.0, math.log(now / dense) / math.log1p(budget.max_perplexity_increase or 1)))


def expected_steps(anatomy: Anatomy, budget: Budget, units: int) -> int:
    """A guess before the search: all units of mean size; a perplexity budget is taken for a fifth of the parameters."""
    if budget.remove is not None:
        return budget.remove
    mean = share(anatomy, anatomy.blocks()) / units
    return max(1, min(units, math.ceil((budget.ratio or 0.2) / mean)))


def steps_within(anatomy: Anatomy, budget: Budget, dense: float, steps: Sequence[Step]) -> list[Step]:
    """The steps of a path before the budget is used up, and the swaps that refine what they leave."""
    taken: list[Step] = []
    for step in steps:
        full = done(anatomy, budget, taken)
        refines = bool(step.restored) and done(anatomy, budget, [*taken, step])
        if (full and not refines) or exceeds(budget, dense, step.perplexity):
            break
        taken.append(step)
    return taken


def steps_for_budget(anatomy: Anatomy, header: Header, steps: Sequence[Step], budget: Budget) -> list[Step]:
    """The part of a path that a budget allows.

    Raises:
        InputError: when the path ends before the budget is reached.
    """
    taken = steps_within(anatomy, budget, header["perplexity"], steps)
    if budget.max_perplexity_increase is None and not done(anatomy, budget, taken):
        gone = share(anatomy, blocks_of(taken))
        raise InputError(
            f"the log ends after {quantity(len(steps), 'step')} ({gone:.1%} of the parameters), too early {budget}: "
            f"continue it, prune with {option('start')} this log"
        )
    return taken
