"""Bootstrap intervals: how sure a statistic is, by drawing its cases with replacement."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
CELLS = 2**22
"""Numbers that exist at once."""

Statistic = Callable[..., Any]
"""Of columns [cases]; one that takes ``axis`` is given many draws at once."""


def interval(
    statistic: Statistic, columns: Sequence[NDArray[np.float64]], draws: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Ends of the 95 % interval by percentiles; what columns say of one case is drawn together."""
    from scipy import stats  # here: a second, which only who needs an interval should wait for

    cases = len(columns[0])
    if cases < 2:  # every draw is the same, for which scipy has no answer
        return (float(statistic(*columns)),) * 2
    ends = stats.bootstrap(
        columns,
        statistic,
        n_resamples=draws,
        batch=max(1, CELLS // cases),
        paired=True,
        method="percentile",
        confidence_level=LEVEL,
        rng=generator,
    ).confidence_interval
    return float(ends.low), float(ends.high)
