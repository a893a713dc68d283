"""Likelihoods of all characters of a text as runs ``[count, likelihood]``, the format on disk."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from remodeler.auditing.spans import Likely


def to_runs(likely: Likely) -> list[list[float]]:
    """Runs of equal likelihoods, rounded to four digits."""
    return [[len(list(group)), value] for value, group in groupby(np.round(likely, 4).tolist())]


def from_runs(runs: Sequence[Sequence[float]]) -> Likely:
    """Likelihood of every character.

    Raises:
        ValueError, TypeError: for anything that is not a list of runs.
    """
    values = np.array([value for _, value in runs], dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():  # None becomes NaN, which is in no range
        raise ValueError("a likelihood that is not a number from 0 to 1")
    return np.repeat(values, np.array([count for count, _ in runs], dtype=np.int64))
