"""Which position of a teacher stands for which position of a student, when their tokenizers differ.

A position predicts what follows the bytes it has read. So a teacher's prediction can be used at a student's position
exactly when both have read the same bytes: when a token of each ends at the same byte (`align_bytes`).

FuseLLM (arXiv 2401.10491) and FuseChat (2408.07990) align the names of tokens instead, by dynamic time warping with
edit distances (`align_dp`), and keep the pairs that pass a test on their names (`from_groups_fusellm`,
`from_groups_fusechat`). Deviations from their code: names are compared as the text they spell, a space for the marker,
so that ``Ã©`` is ``é``; an empty name matches nothing, where in their code it ends every other; a position without a
teacher is -1. At such positions FuseLLM's code teaches the current token, which is a mistake of that code (FuseChat's
teaches the next one): what is to be taught there is left to the caller.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from remodeler.errors import InputError
from remodeler.fusion.offsets import Cut, Ints

Ties = Literal["fusellm", "fusechat"]
"""Which step back is preferred where several cost the same: the diagonal, and then to the teacher's previous token
(FuseLLM) or to the student's (FuseChat)."""
Costs = Callable[[Sequence[str], Sequence[str]], Ints]
"""Costs of student tokens [n] against teacher tokens [m]: [n, m], not negative."""
Mapped = list[list[int]]
"""For every student position the teacher positions mapped to it, in order; never empty."""

FAR = 2**40
"""Cost of what is outside the band."""


# By bytes -------------------------------------------------------------------------------------------------------------


def align_bytes(student: Cut, teacher: Cut) -> Ints:
    """For every position of the student the teacher's that has read the same bytes: [student tokens], -1 for none.

    Where several tokens end at one byte, as special tokens do, the last ones of both belong together, because they
    predict the next text, and then those before them. At the end of the text the first ones belong together, because
    they predict what closes it, and then those behind them.
    """
    mapped = np.full(len(student), -1)
    ours, theirs = student.borders, teacher.borders
    if not (len(ours) and len(theirs)):
        return mapped
    ends, others = student.ends[ours], teacher.ends[theirs]
    found = _bases(others, ends) + np.arange(len(ours)) - _bases(ends, ends)
    right = (found >= 0) & (found < len(others)) & (others[np.clip(found, 0, len(others) - 1)] == ends)
    mapped[ours[right]] = theirs[found[right]]
    return mapped


def _bases(ends: Ints, wanted: Ints) -> Ints:
    """Which token counts where several end at a wanted byte: the last one, at the end of the text the first."""
    return np.where(wanted == ends[-1], ends.searchsorted(wanted), ends.searchsorted(wanted, "right") - 1)


def groups(student: Cut, teacher: Cut) -> Ints:
    """The smallest groups of tokens that cover the same bytes: [groups, 4] student start, stop, teacher start, stop.

    A token that stands for no text, such as a start token, is in a group only if the other side has one too, or if
    text stands on both sides of it.
    """
    mapped = align_bytes(student, teacher)
    stops = np.flatnonzero(mapped >= 0)
    both = np.stack([stops, mapped[stops]], 1) + 1
    first = np.minimum(both[:1] - 1, [[_first_text(student), _first_text(teacher)]])
    starts = np.concatenate([first, both[:-1]])[: len(both)]
    return np.stack([starts[:, 0], both[:, 0], starts[:, 1], both[:, 1]], 1)


def _first_text(tokens: Cut) -> int:
    return int((tokens.ends > tokens.starts).argmax()) if len(tokens) else 0


def shapes(found: Ints) -> dict[str, int]:
    """How many groups [groups, 4] are one token to one, one of the student's to several, and so on."""
    ours, theirs = found[:, 1] - found[:, 0] > 1, found[:, 3] - found[:, 2] > 1
    sides = {"1-1": ~ours & ~theirs, "1-n": ~ours & theirs, "n-1": ours & ~theirs, "n-n": ours & theirs}
    return {name: int(which.sum()) for name, which in sides.items()}


def coverage(mapped: Ints) -> float:
    """Share of positions that carry a teacher's distribution; 0 for no positions."""
    return float((mapped >= 0).mean()) if len(mapped) else 0.0


# By dynamic programming -----------------------------------------------------------------------------------------------


def distances(students: Sequence[str], teachers: Sequence[str]) -> Ints:
    """Edit distances of tokens without their spaces, as in FuseLLM."""
    ours, theirs = ([name.replace(" ", "") for name in names] for names in (students, teachers))
    return process.cdist(ours, theirs, scorer=Levenshtein.distance, dtype=np.int64)


def marked_distances(students: Sequence[str], teachers: Sequence[str]) -> Ints:
    """Edit distances as in FuseChat: with their spaces where one of the two is nothing else."""
    plain = distances(students, teachers)
    whole = process.cdist(students, teachers, scorer=Levenshtein.distance, dtype=np.int64)
    ours, theirs = (np.array([not name.strip(" ") for name in names]) for names in (students, teachers))
    return np.where(ours[:, None] | theirs, whole, plain)


def align_dp(
    student: Sequence[str],
    teacher: Sequence[str],
    band: int | None = None,
    costs: Costs = distances,
    ties: Ties = "fusellm",
) -> Mapped:
    """Dynamic time warping of two lists of tokens, every token as the text it spells.

    Args:
        student: [n] tokens.
        teacher: [m] tokens.
        band: how many of the teacher's tokens to look at on either side of the one at the same byte; None for all.
        costs: of pairs; asked once for the distinct tokens.
        ties: which step is preferred among equals.

    Raises:
        InputError: for an empty list or a negative band.
    """
    if not (student and teacher):
        raise InputError(f"{len(student)} and {len(teacher)} tokens can't be aligned: give texts that are not empty")
    if band is not None and band < 0:
        raise InputError(f"a band of {band} tokens was asked for: give 0 or more, or none for all")
    bounds = _bounds(student, teacher, band)
    return _back(_forward(student, teacher, bounds, costs), bounds, len(teacher), ties)


def _bounds(student: Sequence[str], teacher: Sequence[str], band: int | None) -> Ints:
    """[student tokens, 2] first teacher token that is looked at, and the one behind the last."""
    n, m = len(student), len(teacher)
    if band is None:
        return np.tile([0, m], (n, 1))
    ours, theirs = _bytes_read(student), _bytes_read(teacher)
    middles = np.minimum(theirs.searchsorted(ours * (theirs[-1] / max(ours[-1], 1))), m - 1)
    lows, highs = np.maximum(middles - band, 0), np.minimum(middles + band + 1, m)
    lows[0], highs[-1] = 0, m
    # Consecutive rows must touch, or no path leads through.
    highs[:-1] = np.maximum(highs[:-1], lows[1:])
    return np.stack([lows, highs], 1)


def _bytes_read(tokens: Sequence[str]) -> Ints:
    """[tokens] bytes up to the end of each."""
    return np.cumsum([len(name.encode("utf-8", "surrogateescape")) for name in tokens], dtype=np.int64)


def _forward(student: Sequence[str], teacher: Sequence[str], bounds: Ints, costs: Costs) -> list[Ints]:
    """Cheapest paths to every pair within the bounds, a row for each student token.

    In a row, going on along the teacher adds up costs: with their running sums S, a cell is S plus the least of
    (what is above minus S before it) so far, which is one running minimum.
    """
    ours, rows = np.unique(np.array(student, dtype=object), return_inverse=True)
    theirs, columns = np.unique(np.array(teacher, dtype=object), return_inverse=True)
    table = costs(ours.tolist(), theirs.tolist())
    done: list[Ints] = []
    above, start = np.zeros(1, np.int64), -1  # the corner before both texts
    for row, (low, high) in zip(rows, bounds.tolist(), strict=True):
        sums = np.cumsum(table[row, columns[low:high]])
        padded = _window(above, start, low - 1, high)
        entry = np.minimum(padded[1:], padded[:-1])
        before = np.append(0, sums[:-1])
        above, start = sums + np.minimum.accumulate(entry - before), low
        done.append(above)
    return done


def _window(values: Ints, start: int, low: int, high: int) -> Ints:
    """``values``, which begin at column ``start``, from column ``low`` to ``high``; far where there are none."""
    window = np.full(high - low, FAR)
    first, last = max(start, low), min(start + len(values), high)
    if first < last:
        window[first - low : last - low] = values[first - start : last - start]
    return window


def _back(done: list[Ints], bounds: Ints, columns: int, ties: Ties) -> Mapped:
    """The cheapest path, from its end."""
    lows = bounds[:, 0].tolist()

    def cost(row: int, column: int) -> int:
        place = column - lows[row] if row >= 0 else -1
        return int(done[row][place]) if 0 <= place < len(done[row]) else 2 * FAR

    across, down = (0, -1), (-1, 0)
    steps = [(-1, -1), across, down] if ties == "fusellm" else [(-1, -1), down, across]
    mapped: Mapped = [[] for _ in done]
    row, column = len(done) - 1, columns - 1
    while row > 0 or column > 0:
        mapped[row].append(column)
        right, below = min(steps, key=lambda step: cost(row + step[0], column + step[1]))
        row, column = row + right, column + below
    mapped[0].append(0)
    return [places[::-1] for places in mapped]


# The papers' tests on pairs -------------------------------------------------------------------------------------------


def from_groups_fusellm(
    mapped: Mapped, student: Sequence[str], teacher: Sequence[str], vocabulary: Mapping[str, str] | None = None
) -> Ints:
    """FuseLLM's rule: a teacher's position is used where it alone is mapped and its token is the same.

    Args:
        mapped: what `align_dp` found.
        student: tokens as text.
        teacher: tokens as text.
        vocabulary: what counts as the same too (the paper's MinED); None for equal tokens only (EM).

    Returns:
        [student tokens] the teacher's position, -1 for none. A token at the very start may lack its space.
    """
    known = vocabulary or {}

    def same(place: int, other: int) -> bool:
        ours, theirs = student[place], teacher[other]
        start = place == 0 and ours == " " + theirs
        return ours == theirs or start or known.get(theirs) == ours

    alone = [each[0] if len(each) == 1 and same(place, each[0]) else -1 for place, each in enumerate(mapped)]
    return np.array(alone, dtype=np.int64)


def from_groups_fusechat(mapped: Mapped, student: Sequence[str], teacher: Sequence[str]) -> Ints:
    """FuseChat's rule: a single teacher token that ends as the student's does, or the fitting one of several.

    Returns:
        [student tokens] the teacher's position, -1 for none.
    """
    found = [
        _single(student[place], teacher[each[0]], each[0])
        if len(each) == 1
        else _several(student[place].replace(" ", ""), [teacher[other].replace(" ", "") for other in each], each)
        for place, each in enumerate(mapped)
    ]
    return np.array(found, dtype=np.int64)


def _related(one: str, other: str) -> bool:
    return bool(one and other) and (one.endswith(other) or other.endswith(one))


def _single(ours: str, theirs: str, position: int) -> int:
    return position if _related(ours, theirs) else -1


def _several(ours: str, theirs: Sequence[str], positions: Sequence[int]) -> int:
    """The first token with the student's ending; else the last of those that spell the student's from the left."""
    for position, name in zip(positions, theirs, strict=True):
        if _related(ours, name):
            return position
    last = -1
    for position, name in zip(positions, theirs, strict=True):
        if name and ours.startswith(name):
            ours, last = ours[len(name) :], position
    return last if not ours else -1
