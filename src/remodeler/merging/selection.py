"""The largest elements of a tensor, exactly, without holding or sorting it.

Bit patterns of floating-point numbers that are not negative are in the order of the numbers. One pass counts them by
their upper 16 bits, which finds the bucket that the smallest chosen element is in; a second counts that bucket by the
lower 16 bits, which finds its exact value. Where only some of the elements with just that value are chosen, they are
the first ones in the tensor, and a third pass finds the last of them. Memory: the counters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from remodeler.merging.pieces import Piece, Walk

Values = Callable[[Piece], Tensor]
"""Numbers that are compared: [rows, elements] float32, none negative."""

UPPER, LOWER = 2**15, 2**16
END = 2**62
"""Behind every place."""


@dataclass(frozen=True)
class Cutoff:
    """The end of a choice of largest elements."""

    bits: int
    """Of the smallest chosen value: larger ones are all chosen."""
    last: int
    """Place of the last element of just that value that is chosen."""


NONE, ALL = Cutoff(2**31 - 1, -1), Cutoff(-1, END)


def largest(walk: Walk, values: Values, counts: Sequence[int]) -> tuple[Cutoff, ...]:
    """Where the choice of the ``counts`` largest of each row ends; among equal ones the first are chosen."""
    open_ = [row for row, count in enumerate(counts) if 0 < count < walk.count]
    found = dict.fromkeys(range(len(counts)), NONE) | {r: ALL for r, n in enumerate(counts) if n >= walk.count}
    if open_:
        wanted = [counts[row] for row in open_]
        found |= zip(open_, _found(walk, lambda piece: bits(values(piece))[open_], wanted), strict=True)
    return tuple(found[row] for row in range(len(counts)))


def bits(values: Tensor) -> Tensor:
    """Bit patterns as integers of the same order: [rows, elements] int32."""
    return values.view(torch.int32)


def _found(walk: Walk, patterns: Values, counts: Sequence[int]) -> list[Cutoff]:
    upper, left = _boundaries(_counted(walk, patterns, None), counts)
    lower_counts = _counted(walk, patterns, upper)
    lower, left = _boundaries(lower_counts, left)
    smallest = [high * LOWER + low for high, low in zip(upper, lower, strict=True)]
    equal = [int(row[low]) for row, low in zip(lower_counts, lower, strict=True)]
    if equal == left:
        return [Cutoff(value, END) for value in smallest]
    return [Cutoff(*pair) for pair in zip(smallest, _last_ones(walk, patterns, smallest, left), strict=True)]


def _counted(walk: Walk, patterns: Values, upper: list[int] | None) -> Tensor:
    """How often the upper 16 bits occur or, of those with the given ones, the lower: [rows, buckets]."""
    total: Tensor | None = None
    for piece in walk:
        rows = [_histogram(row, None if upper is None else upper[k]) for k, row in enumerate(patterns(piece))]
        total = torch.stack(rows) if total is None else total.add_(torch.stack(rows))
    assert total is not None
    return total


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
    seen, last = [0] * len(left), [END] * len(left)
    for piece in walk:
        for row, found in enumerate(patterns(piece)):
            equal = (found == smallest[row]).nonzero()[:, 0] if seen[row] < left[row] else found[:0]
            if seen[row] < left[row] <= seen[row] + len(equal):
                last[row] = piece.start + int(equal[left[row] - seen[row] - 1])
            seen[row] += len(equal)
    return last


def chosen(values: Tensor, cutoffs: Sequence[Cutoff], start: int) -> Tensor:
    """Which elements of a piece are among the largest: [rows, elements] bool."""
    patterns = bits(values)
    smallest = torch.tensor([each.bits for each in cutoffs], dtype=torch.int32, device=values.device)[:, None]
    inside = patterns > smallest
    if any(each.last < END for each in cutoffs):
        places = torch.arange(start, start + values.shape[1], device=values.device)
        last = torch.tensor([each.last for each in cutoffs], device=values.device)[:, None]
        return inside | (patterns == smallest) & (places <= last)
    return inside | (patterns == smallest)
