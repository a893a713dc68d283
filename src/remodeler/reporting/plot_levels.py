"""Levels of colour for the importances of a heat map."""

import math
from collections.abc import Sequence

MOST_EDGES = 7


def level_edges(values: Sequence[float]) -> list[float]:
    """Round numbers that split positive values into levels: logarithmic where they spread, else evenly spaced."""
    positive = sorted(value for value in values if value > 0)
    if not positive:
        return []
    # A few extremes get no level of their own.
    low, high = positive[len(positive) // 10], positive[-1 - len(positive) // 20]
    for series in ((1, 2, 5), (1, 3), (1,)):
        edges = _between(low, high, series)
        if len(edges) <= MOST_EDGES:
            break
    return edges[-MOST_EDGES:] if len(edges) > 2 or low == high else _even(low, high)


def _between(low: float, high: float, series: Sequence[int]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    edges = [float(f"{digit}e{decade}") for decade in decades for digit in series]
    return [edge for edge in edges if low < edge < high]


def _even(low: float, high: float) -> list[float]:
    return [low + (high - low) * part / MOST_EDGES for part in range(1, MOST_EDGES)]


def level_opacity(level: int, levels: int) -> float:
    """How strongly a level is coloured: faint at the bottom, full at the top."""
    return round(0.14 + 0.86 * level / max(levels - 1, 1), 3)
