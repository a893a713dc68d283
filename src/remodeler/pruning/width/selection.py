"""Which groups stay, for given scores and a number of parameters that must go.

Groups go in *bunches*: one by one, by several channels where runtimes like round numbers (``multiple``), or the same
number from every layer at once (``uniform``). What is taken reaches the wanted number and passes it by less than one
bunch. The last bunch of a block always stays: taking a whole block out is another verb.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.widths import Structure, Widths
from remodeler.pruning.search.candidates import may_go
from remodeler.runs.units import Block, Unit

Pooling = Literal["separate", "shared"]
"""Heads and channels give up the same share of their parameters each, or all groups are ranked together."""
Scores = Mapping[Block, Tensor]
"""[groups] of every block: the lowest go first. Where all are ranked together they must be comparable a parameter."""


@dataclass(frozen=True)
class Chain:
    """The bunches of one block, least important first; of several blocks where each gives as many."""

    order: dict[Block, list[int]]
    """Groups of every block, the one that goes first in front."""
    sizes: list[int]
    """Groups of each block in a bunch."""
    scores: list[float]
    """Mean score of each bunch: never falling."""
    parameters: int
    """Of one group of each block, together."""

    def cost(self, bunches: int) -> int:
        """Parameters that go with the first bunches."""
        return self.parameters * sum(self.sizes[:bunches])


@dataclass(frozen=True)
class Rules:
    """What the widths must look like."""

    pooling: Pooling = "separate"
    multiple: int = 1
    """An MLP keeps a multiple of so many channels."""
    uniform: bool = False
    """All layers keep the same number, so that a stock config can say it."""


def wanted_parameters(anatomy: Anatomy, removed: Sequence[Block], ratio: float) -> int:
    """How many parameters must still go, so that the share that is gone reaches the ratio (see `budget.share`)."""
    whole = anatomy.parameters()
    total = whole - anatomy.carried_parameters()
    gone = math.floor(ratio * total)
    while 1 - (total - gone) / total < ratio:  # the rounding of the division, as budget.share sees it
        gone += 1
    return gone - (whole - anatomy.parameters(removed))


def kept_groups(structures: Mapping[Block, Structure], scores: Scores, wanted: int, rules: Rules) -> Widths:
    """The groups that stay; blocks that keep all are left out.

    Args:
        structures: what the blocks are made of.
        scores: [groups] of every block.
        wanted: parameters that must go.
        rules: what the widths must look like.

    Raises:
        InputError: when so many can't go.
    """
    heads = chains({b: s for b, s in structures.items() if b.kind != "mlp"}, scores, 1, rules.uniform)
    channels = chains({b: s for b, s in structures.items() if b.kind == "mlp"}, scores, rules.multiple, rules.uniform)
    every = [*heads, *channels]
    reach = sum(chain.cost(len(chain.sizes)) for chain in every)
    if wanted > reach:
        raise InputError(
            f"{wanted} parameters were to go with heads and channels, {reach} can: give a smaller `ratio`, "
            "or remove blocks first"
        )
    if rules.pooling == "shared":
        taken = take(every, wanted)
    else:
        total = sum(each.groups * each.parameters for each in structures.values())
        taken = _separately(heads, channels, wanted, wanted / max(1, total))
    return dict(sorted(pair for chain, bunches in zip(every, taken, strict=True) for pair in _left(chain, bunches)))


def chains(structures: Mapping[Block, Structure], scores: Scores, multiple: int, uniform: bool) -> list[Chain]:
    """The order in which groups may go, block by block, or for all blocks together where they stay equally wide."""
    each = [_chain(block, structure, scores[block], multiple) for block, structure in structures.items()]
    if not uniform or len(each) < 2:
        return each
    if len({structure.groups for structure in structures.values()}) > 1:
        raise InputError("the layers of this model have different widths already: leave out `uniform`")
    order = {block: groups for chain in each for block, groups in chain.order.items()}
    means = [sum(column) / len(each) for column in zip(*(chain.scores for chain in each), strict=True)]
    return [Chain(order, each[0].sizes, means, sum(chain.parameters for chain in each))]


def _chain(block: Block, structure: Structure, scores: Tensor, multiple: int) -> Chain:
    values, order = scores.double().cpu().sort(stable=True)
    odd = structure.groups % multiple
    sizes = [odd] * bool(odd) + [multiple] * (structure.groups // multiple)
    means = [part.mean().item() for part in values.split(sizes)] if multiple > 1 else values.tolist()
    return Chain({block: order.tolist()}, sizes[:-1], means[:-1], structure.parameters)


def take(every: Sequence[Chain], wanted: float) -> list[int]:
    """How many bunches of every chain go: the lowest scores, until ``wanted`` parameters are reached.

    What was taken too much is given back where smaller bunches allow, the most important first.
    """
    queue = sorted((score, number, at) for number, chain in enumerate(every) for at, score in enumerate(chain.scores))
    taken, gone = [0] * len(every), 0
    for _, number, at in queue:
        if gone >= wanted:
            break
        gone += every[number].parameters * every[number].sizes[at]
        taken[number] += 1
    for _, number, at in reversed(queue):
        cost = every[number].parameters * every[number].sizes[at]
        if at == taken[number] - 1 and gone - cost >= wanted:
            gone -= cost
            taken[number] -= 1
    return taken


def _separately(heads: Sequence[Chain], channels: Sequence[Chain], wanted: int, share: float) -> list[int]:
    """The same share of both kinds: of heads, which are large, to the nearest; channels make up for the rest."""
    whole = sum(len(groups) * chain.parameters for chain in heads for groups in list(chain.order.values())[:1])
    half = max((chain.parameters for chain in heads), default=0) / 2
    of_heads = take(heads, share * whole - half)
    of_channels = take(channels, wanted - _cost(heads, of_heads))
    if _cost(heads, of_heads) + _cost(channels, of_channels) < wanted:
        of_heads = take(heads, wanted - _cost(channels, of_channels))
    return [*of_heads, *of_channels]


def _cost(every: Sequence[Chain], taken: Sequence[int]) -> int:
    return sum(chain.cost(bunches) for chain, bunches in zip(every, taken, strict=True))


def _left(chain: Chain, bunches: int) -> Iterator[tuple[Block, tuple[int, ...]]]:
    gone = sum(chain.sizes[:bunches])
    if gone:
        yield from ((block, tuple(sorted(groups[gone:]))) for block, groups in chain.order.items())


def removed_units(
    anatomy: Anatomy, units: Sequence[Unit], scores: Sequence[float], removed: Sequence[Block], wanted: int
) -> list[Block]:
    """The units with the lowest scores, until ``wanted`` parameters are reached; the last attention stays.

    Raises:
        InputError: when so many can't go.
    """
    before, gone = anatomy.parameters(removed), list[Block]()
    queue = [unit for _, _, unit in sorted(zip(scores, range(len(units)), units, strict=True))]
    for unit in queue:
        if before - anatomy.parameters([*removed, *gone]) >= wanted:
            break
        if may_go(anatomy, unit, [*removed, *gone]):
            gone += unit
    for unit in reversed(queue):
        less = [block for block in gone if block not in unit]
        if len(less) < len(gone) and before - anatomy.parameters([*removed, *less]) >= wanted:
            gone = less
    if before - anatomy.parameters([*removed, *gone]) < wanted:
        raise InputError(f"{wanted} parameters were to go with whole blocks, which is too many: give a smaller `ratio`")
    return gone
