"""Voting: a character is in a span if at least k of m members agree.

Ties need no rule beside k: with m = 4 and k = 2 a half is enough, with k = 3 it is not. YNU-HPCC's paper only says
"voting"; choose k on a development set.
"""

from collections.abc import Sequence

import numpy as np

from remodeler.auditing.spans import Span, from_mask, mask
from remodeler.errors import InputError, option

Spans = Sequence[Span]


def vote(votes: Sequence[Spans], least: int) -> list[Span]:
    """Spans of one text with at least ``least`` votes; the score of a span is its mean share of votes."""
    length = max((span.end for spans in votes for span in spans), default=0)
    count = np.zeros(length, dtype=np.int64)
    for spans in votes:
        count += mask(spans, length)
    return from_mask(count >= least, count / max(1, len(votes)))


def vote_all(members: Sequence[Sequence[Spans]], least: int | None = None) -> list[list[Span]]:
    """Let members vote on every text; by default a majority decides.

    Raises:
        InputError: if members have different numbers of texts, or fewer than the votes that are needed.
    """
    if len({len(member) for member in members}) != 1:
        counts = ", ".join(str(len(member)) for member in members) or "none"
        raise InputError(f"the members of a vote have {counts} texts: give predictions of the same texts")
    needed = len(members) // 2 + 1 if least is None else least
    if not 1 <= needed <= len(members):
        raise InputError(f"{option('at_least')} must be <= {len(members)}, the number of members (got {needed})")
    return [vote(votes, needed) for votes in zip(*members, strict=True)]
