"""Keep-probabilities within a budget: the projection of policy gradient (arXiv 2406.10576, section 3).

Deviations: where units differ in size (blocks, layers, bunches of channels) the budget counts sizes, sum of c s <= B;
and the bisection runs a fixed number of steps (the released code: to a tolerance of 1e-3), so that it is exact and a
device need not wait for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BISECTIONS = 45


@dataclass(frozen=True)
class Pool:
    """Units that share a budget."""

    part: slice
    budget: float
    """Largest sum of their probabilities, each times its cost."""
    costs: Tensor
    """[units]"""

    def project(self, values: Tensor) -> Tensor:
        """The nearest probabilities that keep the budget: values of all pools [n] to those of this one."""
        return project(values[self.part], self.costs, self.budget)


def project(values: Tensor, costs: Tensor, budget: float) -> Tensor:
    """The nearest point of {0 <= s <= 1, sum of costs s <= budget}: s = clamp(values - v costs, 0, 1), v by bisection.

    Args:
        values: [n].
        costs: [n], above 0.
        budget: not below 0.
    """
    inside = (costs * values.clamp(0, 1)).sum() <= budget
    most = (values / costs).amax().clamp(min=0)
    _, v = bisect(torch.zeros_like(most), most, lambda v: (costs * (values - v * costs).clamp(0, 1)).sum() > budget)
    return (values - torch.where(inside, 0.0, v) * costs).clamp(0, 1)


def bisect(low: Tensor, high: Tensor, above: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Bounds of the number where ``above`` turns from true to false, in a fixed number of steps: no device waits."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        further = above(middle)
        low, high = torch.where(further, middle, low), torch.where(further, high, middle)
    return low, high
