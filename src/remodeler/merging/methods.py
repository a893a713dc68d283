"""Merge methods: one function each; `table.py` names them.

A method combines one piece of a tensor after the other. What it must know of the whole tensor first, its *survey* finds
by walking the pieces. Task arithmetic and its kin are one formula with two switches: which changes are kept (all, the
largest, a random part), and whether models that disagree in sign with the weighted majority count.

Deviations. VaRM (FuseChat, arXiv 2402.16107, eq. 7) compares with the base, as the equation says; weights are equal
only where no model changed anything, where FuseAI's code has them equal as soon as one did not. SCE (arXiv 2408.07990)
has three variants: ``paper``; ``fuseai``, whose mask counts for the coefficients only; ``mergekit``, which divides by
the coefficients that survive, and weighs models equally where the sum of their mean squared changes is below 1e-6.
Slerp's ``mergekit`` takes a tensor of zeros to lie at a right angle to the other, where ``paper`` goes straight. All
take sums exactly, and else test for 0 itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor

from remodeler.merging.pieces import Piece, Walk, scratch, squares, sum_in_order, totals
from remodeler.merging.selection import Cutoff, find_cutoffs, keep_largest

Facts = Mapping[str, Any]
"""What a survey found of a whole tensor."""
Each = Sequence[float]
"""One number per model."""

PARALLEL = 0.9995
"""Cosine from which slerp is a straight line, as in mergekit."""
ZERO_WEIGHT = 1e-8
"""A sum of weights below which nothing is divided by it, as in mergekit."""
ZERO_SQUARES = 1e-6
"""Mean squares below which the variant mergekit of SCE weighs all models equally, and the least it divides by."""


class Combine(Protocol):
    """A method: how one piece of a tensor is combined. Its options are its keyword arguments, by name."""

    def __call__(self, piece: Piece, facts: Facts, /, *args: Any, **options: Any) -> Tensor:
        """Combine the rows [models, elements] of a piece into [elements], float32."""
        ...


class Survey(Protocol):
    """What a method must know of the whole tensor before its first piece."""

    def __call__(self, walk: Walk, /, *args: Any, **options: Any) -> Facts:
        """Walk over all pieces of a tensor and return the facts that its method takes."""
        ...


def weighted_sum(rows: Iterable[Tensor], weight: Each) -> Tensor:
    """Sum of the models' rows [elements], each times its model's number, added in order: [elements]."""
    parts = (row * each for row, each in zip(rows, weight, strict=True))
    return reduce(Tensor.add_, parts)


def add_changes(
    piece: Piece, changes: Tensor, weight: Each, scale: float, *, consensus: bool, normalize: bool
) -> Tensor:
    """Add ``scale`` times the weighted changes [models, elements] to the base.

    Args:
        piece: gives the base.
        changes: those of each model that are kept.
        weight: of each model.
        scale: the papers' lambda.
        consensus: whether only changes count that have the sign of their sum (TIES: elect and merge).
        normalize: whether to divide by the sum of the weights that count.
    """
    assert piece.base is not None
    if not consensus:
        total = weighted_sum(changes, weight)
        divisor = sum(weight)
        return piece.base + scale * (total / divisor if normalize and abs(divisor) >= ZERO_WEIGHT else total)
    parts = scratch("parts", len(changes), changes.shape[1], changes.device)
    torch.mul(changes, torch.tensor(weight, dtype=torch.float32, device=changes.device)[:, None], out=parts)
    sign = elect(parts)
    total = sum_in_order(parts)
    if normalize:
        total /= avoid_zero(weighted_sum(map(positive_mask, parts), weight))
    return piece.base + scale * total * sign


def elect(parts: Tensor) -> Tensor:
    """The sign of the sum of parts [models, elements], that of 0 being positive: [elements], 1 or -1.

    Parts of that sign become their sizes, in place, and the others 0: comparing and masking would take ten times as
    long as arithmetic.
    """
    sign = torch.copysign(torch.ones((), device=parts.device), sum_in_order(parts))
    parts.mul_(sign).relu_()
    return sign


def positive_mask(parts: Tensor) -> Tensor:
    """1.0 where a number is above 0, 0.0 elsewhere."""
    return torch.gt(parts, 0, out=torch.empty_like(parts))


def avoid_zero(divisor: Tensor) -> Tensor:
    """A divisor with 1 in the place of 0: what is divided is 0 there too."""
    return divisor + torch.eq(divisor, 0, out=torch.empty_like(divisor))


# The classics ---------------------------------------------------------------------------------------------------------


def linear(piece: Piece, facts: Facts, *, weight: Each, normalize: bool) -> Tensor:
    """The weighted mean (model soups, Wortsman et al. 2022, arXiv 2203.05482), or without ``normalize`` the sum."""
    total = weighted_sum(piece.tensors, weight)
    return total / sum(weight) if normalize else total


def arc_shares(walk: Walk, *, t: float, variant: str) -> Facts:
    """Shares of the two ends of an arc at ``t``; in the variant mergekit, zeros are at a right angle to everything."""
    firsts, seconds, products = totals(walk, lambda piece: _products(*piece.tensors.double()))
    lengths = math.sqrt(firsts * seconds)
    cosine = max(-1.0, min(1.0, products / lengths)) if lengths else float(variant != "mergekit")
    if abs(cosine) > PARALLEL:
        return {"shares": (1 - t, t)}
    theta = math.acos(cosine)
    return {"shares": (math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta))}


def _products(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first * first, second * second, first * second])


def slerp(piece: Piece, facts: Facts) -> Tensor:
    """On the arc between two models (Shoemake 1985), their lengths kept: t = 0 is the first."""
    return weighted_sum(piece.tensors, facts["shares"])


def task_arithmetic(piece: Piece, facts: Facts, *, weight: Each, scale: float, normalize: bool) -> Tensor:
    """All changes (Ilharco et al. 2022, arXiv 2212.04089)."""
    return add_changes(piece, piece.deltas, weight, scale, consensus=False, normalize=normalize)


def largest_changes(walk: Walk, *, density: Each) -> Facts:
    """Cutoffs of each model's ``density`` largest changes."""
    return {
        "kept": find_cutoffs(
            walk, lambda piece: piece.deltas.abs(), [kept_count(share, walk.count) for share in density]
        )
    }


def kept_count(share: float, count: int) -> int:
    """Number of elements that a density keeps: rounded down as in mergekit, but at least one, unless it is 0."""
    return max(1, int(share * count)) if share > 0 else 0


def middle_changes(walk: Walk, *, density: Each, gamma: Each) -> Facts:
    """Cutoffs of each model's ``gamma`` largest changes, which are dropped, and of the ``density`` largest next."""
    kept = [int(share * walk.count) for share in density]
    dropped = [min(int(share * walk.count), walk.count - keep) for share, keep in zip(gamma, kept, strict=True)]
    ends = [drop + keep for drop, keep in zip(dropped, kept, strict=True)]
    found = find_cutoffs(walk, lambda piece: piece.deltas.abs().repeat(2, 1), [*dropped, *ends])
    return {"dropped": found[: len(ends)], "kept": found[len(ends) :]}


def selected_changes(piece: Piece, facts: Facts) -> Tensor:
    """The changes that a survey selected; 0 elsewhere."""
    inside = keep_largest(piece.deltas, facts["kept"], piece.start)
    return inside - keep_largest(inside, facts["dropped"], piece.start) if "dropped" in facts else inside


def ties(piece: Piece, facts: Facts, *, weight: Each, density: Each, scale: float, normalize: bool) -> Tensor:
    """The largest changes of each model, where they agree in sign (TIES, Yadav et al. 2023, arXiv 2306.01708)."""
    return add_changes(piece, selected_changes(piece, facts), weight, scale, consensus=True, normalize=normalize)


def breadcrumbs(
    piece: Piece,
    facts: Facts,
    *,
    weight: Each,
    density: Each,
    gamma: Each,
    scale: float,
    normalize: bool,
    consensus: bool = False,
) -> Tensor:
    """Neither the very largest changes nor the small ones (Davari and Belilovsky 2023, arXiv 2312.06795)."""
    return add_changes(piece, selected_changes(piece, facts), weight, scale, consensus=consensus, normalize=normalize)


# Of FuseChat ----------------------------------------------------------------------------------------------------------


def changed_squares(walk: Walk) -> Facts:
    """The sum of the squares of each model's changes, and their number."""
    return {"squares": squares(walk, lambda piece: piece.deltas), "count": walk.count}


def pool_squares(facts: Sequence[Facts]) -> Facts:
    """The sums of squares of several tensors together."""
    rows = zip(*(each["squares"] for each in facts), strict=True)
    return {"squares": [math.fsum(row) for row in rows], "count": sum(each["count"] for each in facts)}


def shares(amounts: Each) -> Each:
    """Amounts as shares of their sum; equal shares where it is 0."""
    whole = math.fsum(amounts)
    return [each / whole if whole else 1 / len(amounts) for each in amounts]


def varm(piece: Piece, facts: Facts) -> Tensor:
    """Models weigh as their mean squared change in the tensor, layer or model (variation ratio merging)."""
    assert piece.base is not None
    return piece.base + weighted_sum(piece.deltas, shares(facts["squares"]))


def select_and_calculate(walk: Walk, *, select: float, variant: str) -> Facts:
    """Cutoff of the elements that vary most between models, and each model's sum of their squared changes."""
    cutoffs: tuple[Cutoff, ...] = ()
    if select < 1:
        varying = walk.count
        if variant != "paper":  # a share of the elements that vary at all
            varying = int(totals(walk, lambda piece: positive_mask(variance(piece.deltas)))[0])
        cutoffs = find_cutoffs(walk, lambda piece: variance(piece.deltas), [int(select * varying)])
    found = squares(walk, lambda piece: mask_changes(piece, cutoffs))
    if variant == "mergekit" and math.fsum(found) < ZERO_SQUARES * walk.count:
        found = [1.0] * len(found)
    return {"cutoffs": cutoffs, "squares": found}


def variance(rows: Tensor) -> Tensor:
    """Variance over the models: [models, elements] to [1, elements]."""
    mean = sum_in_order(rows).div_(len(rows))
    total = torch.zeros_like(mean)
    for row in rows:
        off = row - mean
        total += off.mul_(off)
    return total.div_(len(rows))[None]


def mask_changes(piece: Piece, cutoffs: Sequence[Cutoff]) -> Tensor:
    """Changes where models vary enough, and at all; 0 elsewhere. Without cutoffs, all changes."""
    if not cutoffs:
        return piece.deltas
    inside = keep_largest(variance(piece.deltas), cutoffs, piece.start).sign_()
    return torch.mul(piece.deltas, inside, out=scratch("masked", len(piece.deltas), inside.shape[1], inside.device))


def sce(piece: Piece, facts: Facts, *, select: float, variant: str) -> Tensor:
    """Select what varies, calculate coefficients, erase minority signs (FuseChat)."""
    assert piece.base is not None
    changes = mask_changes(piece, () if variant == "fuseai" else facts["cutoffs"])  # the changes are not used again
    coefficients = shares(facts["squares"])
    sign = elect(changes)
    total = weighted_sum(changes, coefficients)
    if variant != "paper":
        left = weighted_sum(map(positive_mask, changes), coefficients)
        total /= left.clamp_min(ZERO_SQUARES) if variant == "mergekit" else avoid_zero(left)
    return piece.base + total * sign
