"""Keep-probabilities within a budget: the projection of policy gradient (arXiv 2406.10576, section 3).

Deviations: where units differ in size (blocks, layers, bunches of channels) the budget counts sizes, sum of c s <= B;
and the bisection runs a fixed number of steps (the released code: to a tolerance of 1e-3), so that it is exact and a
device need not wait for it.
"""

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
        return projected(values[self.part], self.costs, self.budget)


def projected(values: Tensor, costs: Tensor, budget: float) -> Tensor:
    """The nearest point of {0 <= s <= 1, sum of costs s <= budget}: s = clamp(values - v costs, 0, 1), v by bisection.

    Args:
        values: [n].
        costs: [n], above 0.
        budget: not below 0.
    """
    low, high = torch.zeros_like(values[0]), (values / costs).amax().clamp(min=0)
    inside = (costs * values.clamp(0, 1)).sum() <= budget
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        over = (costs * (values - middle * costs).clamp(0, 1)).sum() > budget
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return (values - torch.where(inside, 0.0, high) * costs).clamp(0, 1)
