"""Voting: a character is in the result when at least k of m say so.

Ties need no rule beside k: with m = 4 and k = 2 a half is enough, with k = 3 it is not. YNU-HPCC's paper says
"voting" and no more; k is to be chosen on a development set.
"""

from collections.abc import Sequence

import numpy as np

from remodeler.auditing.spans import Span, of_mask
from remodeler.errors import InputError

Spans = Sequence[Span]


def vote(votes: Sequence[Spans], least: int) -> list[Span]:
    """Characters of one text with at least ``least`` votes; a run's score is the mean share of the votes for it."""
    length = max((span.end for spans in votes for span in spans), default=0)
    count = np.zeros(length, dtype=np.int64)
    for spans in votes:
        count += _marked(spans, length)
    return of_mask(count >= least, count / max(1, len(votes)))


def vote_all(members: Sequence[Sequence[Spans]], least: int | None = None) -> list[list[Span]]:
    """Votes of every member on every text; by default a majority decides.

    Raises:
        InputError: when members have different numbers of texts, or so many votes can't be.
    """
    if len({len(member) for member in members}) != 1:
        counts = ", ".join(str(len(member)) for member in members) or "none"
        raise InputError(f"the members of a vote have {counts} texts: give predictions of the same texts")
    needed = len(members) // 2 + 1 if least is None else least
    if not 1 <= needed <= len(members):
        raise InputError(f"--at-least {needed} was given for {len(members)} members: choose 1 to {len(members)}")
    return [vote(votes, needed) for votes in zip(*members, strict=True)]


def _marked(spans: Spans, length: int) -> np.ndarray:
    marked = np.zeros(length, dtype=np.int64)
    for span in spans:
        marked[span.start : span.end] = 1
    return marked
