"""Bunches: channels that share one keep-probability, so that few masks can tell them apart.

Losses are noisy, and what a probability learns falls with the number of those that are learned beside it: the ratio of
signal to noise goes with the square root of steps / units. 15,000 steps for the 350,000 channels of a 7-billion model
(arXiv 2406.10576) are what 300 steps are for 7,000. Ours, not the paper's: neighbours in the order of the first scores
of a block are kept or masked together (``bunch=1`` is the paper's). Heads are few, and learned one by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from remodeler.model.logprobs import sum_dtype
from remodeler.model.structures import Structure
from remodeler.pruning.width.initial import Start, to_probabilities
from remodeler.pruning.width.projection import Pool
from remodeler.runs.units import Block


@dataclass(frozen=True)
class Bunches:
    """Which groups share a probability."""

    groups: Mapping[Block, Structure]
    owner: Tensor
    """The bunch of every group, block after block: [groups] int64."""
    parts: Mapping[str, slice]
    """Where the bunches of a kind lie."""
    sizes: Tensor
    """Groups of each: [bunches]."""
    first: Tensor
    """Mean of the first scores: [bunches]."""
    ranks: Tensor
    """Place of every group in the order of its block's first scores, in [0, 1): [groups]."""

    def masks(self, drawn: Tensor) -> Tensor:
        """[K, bunches] to [K, groups]."""
        return drawn[:, self.owner]

    def scores(self, learned: Tensor) -> dict[Block, Tensor]:
        """Probabilities of bunches to scores of groups; inside a bunch the first scores decide."""
        row = learned[self.owner] + 1e-9 * self.ranks
        return dict(zip(self.groups, row.split([each.groups for each in self.groups.values()]), strict=True))


def make_bunches(groups: Mapping[Block, Structure], scores: Mapping[Block, Tensor], bunch: int) -> Bunches:
    """Bunches of up to so many channels, and of single heads; the smallest of a block comes first.

    Args:
        groups: of the blocks, kind after kind.
        scores: first scores, [groups] of every block.
        bunch: channels of a bunch.
    """
    owners, sizes, ranks, parts = list[Tensor](), list[int](), list[Tensor](), dict[str, slice]()
    for block, structure in groups.items():
        wide = bunch if block.kind == "mlp" else 1
        odd = structure.groups % wide
        new = [odd] * bool(odd) + [wide] * (structure.groups // wide)
        place = scores[block].argsort(stable=True).argsort()  # of each group in the order
        of_place = torch.arange(len(sizes), len(sizes) + len(new)).repeat_interleave(torch.tensor(new))
        owners.append(of_place.to(place.device)[place])
        ranks.append(place / structure.groups)
        sizes += new
        parts[block.kind] = slice(parts[block.kind].start if block.kind in parts else len(sizes) - len(new), len(sizes))
    owner, every = torch.cat(owners), torch.cat(list(scores[block] for block in groups))
    every = every.to(sum_dtype(every.device))
    count = torch.tensor(sizes, dtype=every.dtype, device=every.device)
    first = torch.zeros_like(count).index_add_(0, owner, every) / count
    return Bunches(groups, owner, parts, count, first, torch.cat(ranks))


def budgets(bunches: Bunches, density: float, how: Start) -> tuple[Tensor, list[Pool]]:
    """First probabilities [bunches], and a budget of kept groups for each kind."""
    parts = list(bunches.parts.values())
    start = torch.cat([to_probabilities(bunches.first[part], density, how) for part in parts])
    costs = [bunches.sizes[part] / bunches.sizes[part].mean() for part in parts]
    return start, [Pool(part, density * len(cost), cost) for part, cost in zip(parts, costs, strict=True)]
