"""Changes dropped at random, what stays made larger in turn: DARE and DELLA.

DARE (Yu et al. 2023, arXiv 2311.03099) and DELLA (Deep et al. 2024, arXiv 2406.11617) divide what stays by the
probability that it does. In the variant ``mergekit`` it is multiplied by one number a tensor and model, so that the sum
of sizes stays what it was. Random numbers are functions of the seed, the tensor, the model and the place.
"""

import torch
from torch import Tensor

from remodeler.merging.methods import Each, Facts, add_changes, avoid_zero
from remodeler.merging.pieces import Piece, Walk, totals, uniform_numbers

ZERO_SIZE = 1e-7
"""Sums of sizes below which the variant mergekit makes nothing larger, as mergekit does."""


def dare(
    piece: Piece,
    facts: Facts,
    *,
    weight: Each,
    density: Each,
    scale: float,
    normalize: bool,
    rescale: bool,
    variant: str,
    consensus: bool = False,
) -> Tensor:
    """A random part of the changes, made as much larger as it is smaller (DARE)."""
    kept = drop_at_random(piece, keep_probability(piece, density), facts, rescale and variant == "paper")
    return add_changes(piece, kept, weight, scale, consensus=consensus, normalize=normalize)


def della(
    piece: Piece,
    facts: Facts,
    *,
    weight: Each,
    density: Each,
    epsilon: Each,
    scale: float,
    normalize: bool,
    rescale: bool,
    variant: str,
    consensus: bool = False,
) -> Tensor:
    """As DARE, larger changes of a row being likelier to stay: density - epsilon to density + epsilon (DELLA)."""
    kept = drop_at_random(piece, keep_probability(piece, density, epsilon), facts, rescale and variant == "paper")
    return add_changes(piece, kept, weight, scale, consensus=consensus, normalize=normalize)


def keep_probability(piece: Piece, density: Each, epsilon: Each | None = None) -> Tensor:
    """How likely each change stays, by its rank in its row where there is an ``epsilon``: [models, elements]."""
    middle = torch.tensor(density, dtype=torch.float32, device=piece.deltas.device)[:, None]
    if epsilon is None:
        return middle.expand_as(piece.deltas)
    some = [reach if 0 < share < 1 else 0.0 for share, reach in zip(density, epsilon, strict=True)]
    reach = torch.tensor(some, dtype=torch.float32, device=middle.device)[:, None]
    return middle - reach + 2 * reach * rank_in_row(piece.deltas.abs(), piece.row)


def drop_at_random(piece: Piece, probability: Tensor, facts: Facts, rescale: bool) -> Tensor:
    """Changes that random numbers of the piece let stay, times the facts' ``factors``: [models, elements]."""
    numbers = torch.stack([uniform_numbers(piece, model) for model in range(len(piece.deltas))])
    kept = piece.deltas * torch.lt(numbers, probability, out=torch.empty_like(numbers))
    if "factors" in facts:
        return kept * torch.tensor(facts["factors"], dtype=torch.float32, device=kept.device)[:, None]
    return kept / avoid_zero(probability) if rescale else kept


def rescale_factors(walk: Walk, *, density: Each, rescale: bool, variant: str, epsilon: Each | None = None) -> Facts:
    """In the variant mergekit by model what makes the sum of sizes of what stays that of all its changes."""
    if variant != "mergekit" or not rescale:
        return {}

    def sizes(piece: Piece) -> Tensor:
        return torch.cat(
            [piece.deltas, drop_at_random(piece, keep_probability(piece, density, epsilon), {}, False)]
        ).abs()

    found = totals(walk, sizes)
    pairs = zip(found[: len(density)], found[len(density) :], strict=True)
    return {"factors": [whole / kept if min(whole, kept) >= ZERO_SIZE else 1.0 for whole, kept in pairs]}


def rank_in_row(sizes: Tensor, row: int) -> Tensor:
    """0 for the smallest of a row, 1 for the largest, 1/2 where it is alone: [models, elements], of whole rows."""
    if row == 1:
        return torch.full_like(sizes, 0.5)
    rows = sizes.unflatten(1, (-1, row))
    rank = rows.argsort(stable=True, dim=2).argsort(dim=2)
    scaled: Tensor = rank.flatten(1).float() / (row - 1)
    return scaled
