"""Bootstrap intervals: the closed form they come near to, and what is drawn together."""

import math
from typing import Any

import numpy as np
import pytest

from remodeler.evaluation.bootstrap import interval

VALUES = np.random.default_rng(7).normal(size=400)


def mean(values: Any, axis: int = -1) -> Any:
    return values.mean(axis)


def drawn(statistic: Any, *columns: Any, seed: int = 0) -> tuple[float, float]:
    return interval(statistic, columns, 2000, np.random.default_rng(seed))


def test_the_interval_of_a_mean_is_about_that_of_the_normal_distribution() -> None:
    low, high = drawn(mean, VALUES)
    half = 1.96 * VALUES.std() / math.sqrt(len(VALUES))
    assert low == pytest.approx(VALUES.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(VALUES.mean() + half, abs=0.1 * half)


def test_the_ends_are_percentiles_of_seeded_draws() -> None:
    draws = VALUES[np.random.default_rng(3).integers(0, 400, (2000, 400))].mean(1)
    assert drawn(mean, VALUES, seed=3) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_a_statistic_that_takes_one_draw_gives_the_same_interval() -> None:
    assert drawn(lambda values: float(values.mean()), VALUES) == pytest.approx(drawn(mean, VALUES))


def test_columns_are_drawn_together() -> None:
    assert drawn(lambda one, two: (one - two).mean(), VALUES, VALUES - 1) == pytest.approx((1, 1))


def test_of_a_single_case_every_draw_is_the_same() -> None:
    assert drawn(mean, np.array([0.25])) == (0.25, 0.25)
