"""Likelihoods of all characters of a text as a file holds them: runs ``[count, likelihood]``."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from remodeler.auditing.spans import Likely


def packed(likely: Likely) -> list[list[float]]:
    """Runs of equal likelihoods, to four digits."""
    return [[len(list(group)), value] for value, group in groupby(np.round(likely, 4).tolist())]


def unpacked(runs: Sequence[Sequence[float]]) -> Likely:
    """The likelihood of every character.

    Raises:
        ValueError, TypeError: for anything that is no list of runs.
    """
    values = np.array([value for _, value in runs], dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():  # None becomes NaN, which is in no range
        raise ValueError("a likelihood that is no number from 0 to 1")
    return np.repeat(values, np.array([count for count, _ in runs], dtype=np.int64))
