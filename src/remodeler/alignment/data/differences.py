"""Differences between two texts, word by word."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from statistics import fmean

WORD = re.compile(r"\s+|\w+|[^\w\s]")

Part = tuple[str, str, str]
"""``equal``, ``insert``, ``delete`` or ``replace``; what was there; what is there now."""


def words(text: str) -> list[str]:
    """Words, runs of white space and single other characters, which together are the text."""
    return WORD.findall(text)


def difference(before: str, after: str) -> list[Part]:
    """Parts that joined give both texts."""
    one, two = words(before), words(after)
    matched = SequenceMatcher(None, one, two, autojunk=False)
    return [(kind, "".join(one[a:b]), "".join(two[c:d])) for kind, a, b, c, d in matched.get_opcodes()]


def mean_lengths(pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Mean characters before and after."""
    return fmean(len(one) for one, _ in pairs), fmean(len(two) for _, two in pairs)
