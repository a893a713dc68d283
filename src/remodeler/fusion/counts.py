"""Which token of a student most often covers the text of a teacher's token, counted over a corpus.

FuseChat (arXiv 2408.07990) counts the pairs that dynamic programming aligns, in a dense matrix of both vocabularies
(39 GB for Llama and Qwen), and chooses by edit distance times sigmoid of the count, so that a larger count counts
slightly *against* a token. Here the pairs are counted sparsely, by the bytes they share or by dynamic programming, and
the largest count wins, as the paper says; the released code's choice is ``rule="sigmoid"``. Deviations: a teacher's
token twice in one group is counted twice; a token that was never seen has no counterpart.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from remodeler.errors import InputError
from remodeler.fusion.cross_tokenizer import Mapped
from remodeler.fusion.offsets import Cut, Ints
from remodeler.fusion.vocabularies import Contents, decode_ids, exact_map

Rule = Literal["count", "sigmoid"]
"""The largest count, then the least edit distance; or FuseChat's code."""


@dataclass(frozen=True, eq=False)
class Counts:
    """How often a token of the student and one of the teacher cover the same text: sparse, sorted, without doubles."""

    students: Ints
    """[pairs] ids"""
    teachers: Ints
    """[pairs] ids"""
    counts: Ints
    """[pairs]"""

    def __add__(self, other: "Counts") -> "Counts":
        pairs = [np.append(getattr(self, name), getattr(other, name)) for name in ("students", "teachers", "counts")]
        return _aggregate(*pairs)


def count(student: Iterable[Cut], teacher: Iterable[Cut]) -> Counts:
    """Count pairs of tokens that share bytes, over the texts of a corpus."""
    return count_pairs(overlaps(ours, theirs) for ours, theirs in zip(student, teacher, strict=True))


def overlaps(student: Cut, teacher: Cut) -> tuple[Ints, Ints]:
    """Ids of every pair of tokens that share bytes of a text: [pairs] of the student, [pairs] of the teacher."""
    limits = np.union1d(np.append(student.starts, student.ends), np.append(teacher.starts, teacher.ends))
    starts = limits[:-1]  # between two limits lies text of at most one token of each
    places = [each.ends.searchsorted(starts, "right") for each in (student, teacher)]
    inside = [
        (place < len(each)) & (np.append(each.starts, np.iinfo(np.int64).max)[place] <= starts)
        for place, each in zip(places, (student, teacher), strict=True)
    ]
    both = inside[0] & inside[1]
    return student.ids[places[0][both]], teacher.ids[places[1][both]]


def mapped_pairs(mapped: Mapped, student: Ints, teacher: Ints) -> tuple[Ints, Ints]:
    """Ids of the pairs that dynamic programming found: [pairs] of the student, [pairs] of the teacher."""
    sizes = [len(each) for each in mapped]
    return np.repeat(student, sizes), teacher[np.array([place for each in mapped for place in each], dtype=np.int64)]


def count_pairs(pairs: Iterable[tuple[Ints, Ints]]) -> Counts:
    """Count pairs of ids, as `mapped_pairs` gives them."""
    nothing = np.zeros(0, np.int64)
    students, teachers = zip((nothing, nothing), *pairs, strict=True)
    return _aggregate(np.concatenate(students), np.concatenate(teachers))


def _aggregate(students: Ints, teachers: Ints, weights: Ints | None = None) -> Counts:
    size = int(teachers.max(initial=0)) + 1
    keys, places = np.unique(students * size + teachers, return_inverse=True)
    counts = np.bincount(places, weights, minlength=len(keys)).astype(np.int64)
    return Counts(keys // size, keys % size, counts)


def statistics_map(counts: Counts, teacher: Contents, student: Contents, rule: Rule = "count") -> Ints:
    """Map tokens of the same bytes, else those that cover the same text: [teacher rows], -1 for none.

    Args:
        counts: of a corpus.
        teacher: what its ids stand for.
        student: what its ids stand for.
        rule: how one is chosen among those that were counted.
    """
    if rule not in get_args(Rule):
        raise InputError(f"{rule!r} is not a rule: choose one of {', '.join(get_args(Rule))}")
    mapping = exact_map(teacher, student)
    known = np.array([part is not None for part in student], dtype=bool)
    named = np.array([part is not None for part in teacher], dtype=bool)
    open_ = (mapping[counts.teachers] < 0) & named[counts.teachers] & known[counts.students]
    ours, theirs, often = counts.students[open_], counts.teachers[open_], counts.counts[open_]
    if not len(ours):
        return mapping
    apart, inside = _edit_distances(decode_ids(student, ours.tolist()), decode_ids(teacher, theirs.tolist()))
    if rule == "count":
        order = np.lexsort((ours, apart, -often, theirs))
    else:
        order = np.lexsort((ours, apart * np.where(inside, 0.1, 1) / (1 + np.exp(-often)), theirs))
    tokens, first = np.unique(theirs[order], return_index=True)
    mapping[tokens] = ours[order][first]
    return mapping


def _edit_distances(ours: list[str], theirs: list[str]) -> tuple[Ints, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Edit distance of pairs without their spaces, unless one is nothing else; and whether one is in the other."""
    pairs = [
        (bare, other) if (bare := one.replace(" ", "")) and (other := two.replace(" ", "")) else (one, two)
        for one, two in zip(ours, theirs, strict=True)
    ]
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    distances = process.cpdist(left, right, scorer=Levenshtein.distance, dtype=np.int64)
    return distances, np.array([one in two or two in one for one, two in pairs], dtype=bool)
