"""The largest elements of a tensor, exactly, without holding or sorting it.

Bit patterns of floating-point numbers that are not negative are in the order of the numbers. One pass counts them by
their upper 16 bits, which finds the bucket that the smallest chosen element is in; a second counts that bucket by the
lower 16 bits, which finds its exact value. Where only some of the elements with just that value are chosen, they are
the first ones in the tensor, and a third pass finds the last of them. Memory: the counters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from remodeler.merging.pieces import Piece, Walk

Values = Callable[[Piece], Tensor]
"""Numbers that are compared: [rows, elements] float32, none negative."""

UPPER, LOWER = 2**15, 2**16
END = 2**62
"""Behind every place."""
INFINITE = 0x7F800000
"""Bit pattern of infinity."""


@dataclass(frozen=True)
class Cutoff:
    """Where a selection of largest elements ends."""

    bits: int
    """Of the smallest chosen value: larger ones are all chosen."""
    last: int
    """Place of the last element of just that value that is chosen."""


NONE, ALL = Cutoff(INFINITE, -1), Cutoff(-1, END)


def find_cutoffs(walk: Walk, values: Values, counts: Sequence[int]) -> tuple[Cutoff, ...]:
    """Cutoffs of the ``counts`` largest elements of each row; among equal ones the first are chosen."""
    open_ = [row for row, count in enumerate(counts) if 0 < count < walk.count]
    found = dict.fromkeys(range(len(counts)), NONE) | {r: ALL for r, n in enumerate(counts) if n >= walk.count}
    if open_:
        wanted = [counts[row] for row in open_]
        found |= zip(open_, _find_open(walk, lambda piece: bits(values(piece))[open_], wanted), strict=True)
    return tuple(found[row] for row in range(len(counts)))


def bits(values: Tensor) -> Tensor:
    """Bit patterns as integers of the same order: [rows, elements] int32."""
    return values.view(torch.int32)


def _find_open(walk: Walk, patterns: Values, counts: Sequence[int]) -> list[Cutoff]:
    upper, left = _boundaries(_count_bits(walk, patterns, None), counts)
    lower_counts = _count_bits(walk, patterns, upper)
    lower, left = _boundaries(lower_counts, left)
    smallest = [high * LOWER + low for high, low in zip(upper, lower, strict=True)]
    equal = [int(row[low]) for row, low in zip(lower_counts, lower, strict=True)]
    if equal == left:
        return [Cutoff(value, END) for value in smallest]
    return [Cutoff(*pair) for pair in zip(smallest, _last_ones(walk, patterns, smallest, left), strict=True)]


def _count_bits(walk: Walk, patterns: Values, upper: list[int] | None) -> Tensor:
    """Count the upper 16 bits or, of values with the given ones, the lower: [rows, buckets]."""

    def histograms(piece: Piece) -> Tensor:
        return torch.stack(
            [_histogram(row, None if upper is None else upper[k]) for k, row in enumerate(patterns(piece))]
        )

    counted = walk.over(histograms)
    return reduce(Tensor.add_, counted, next(counted))


def _histogram(row: Tensor, upper: int | None) -> Tensor:
    if upper is None:
        return torch.bincount(row >> 16, minlength=UPPER)
    return torch.bincount(row[row >> 16 == upper] & LOWER - 1, minlength=LOWER)


def _boundaries(histogram: Tensor, counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """By row, the bucket that the count-th largest is in, and how many of that bucket are chosen."""
    above = histogram.flip(1).cumsum(1).flip(1) - histogram  # in larger buckets
    wanted = torch.tensor(counts, device=histogram.device)[:, None]
    bucket = ((above < wanted) & (above + histogram >= wanted)).int().argmax(1, keepdim=True)
    return bucket[:, 0].tolist(), (wanted - above.gather(1, bucket))[:, 0].tolist()


def _last_ones(walk: Walk, patterns: Values, smallest: list[int], left: list[int]) -> list[int]:
    """Place of the ``left``-th element of each row that has just the smallest chosen value."""
    wanted = torch.tensor(smallest, dtype=torch.int32, device=walk.device)[:, None]

    def equal_ones(piece: Piece) -> Tensor:
        found = patterns(piece)
        return torch.eq(found, wanted, out=torch.empty(found.shape, device=walk.device)).sum(1).long().cpu()

    counts = torch.stack(list(walk.over(equal_ones)))  # [pieces, rows]
    seen = counts.cumsum(0)
    found = []
    for row, number in enumerate(left):
        place = int((seen[:, row] < number).sum())
        piece = walk.piece(place * walk.step)
        equal = (patterns(piece)[row] == smallest[row]).nonzero()[:, 0]
        found.append(piece.start + int(equal[number - 1 - int(seen[place, row] - counts[place, row])]))
    return found


def keep_largest(rows: Tensor, cutoffs: Sequence[Cutoff], start: int) -> Tensor:
    """Keep the elements of a piece that are among the largest in size; 0 elsewhere: [rows, elements] float32."""
    kept = torch.empty_like(rows)
    for place, row, cutoff in zip(kept, rows, cutoffs, strict=True):
        place.copy_(_shrink_row(row, cutoff, start))
    return kept


def _shrink_row(row: Tensor, cutoff: Cutoff, start: int) -> Tensor:
    """A row whose elements up to the last place may be as small as the cutoff, and behind it must be larger."""
    border = max(0, min(cutoff.last + 1 - start, len(row)))
    parts = [_above(row[:border], cutoff.bits - 1), _above(row[border:], cutoff.bits)]
    return torch.cat(parts) if 0 < border < len(row) else parts[border == 0]


def _above(row: Tensor, pattern: int) -> Tensor:
    """Elements whose size has a larger bit pattern, in one vectorised operation."""
    if pattern < 0:
        return row
    return torch.nn.functional.hardshrink(row, torch.tensor(pattern, dtype=torch.int32).view(torch.float32).item())
