"""Intervals and tests: closed forms, coverage, and what clusters do."""

import math
from itertools import product

import numpy as np
import pytest

from remodeler.auditing.statistics.intervals import difference, share, swap_test

ONES = np.ones(40)


def flags(count: int, of: int = 40) -> np.ndarray:
    return (np.arange(of) < count).astype(float)


def test_an_interval_is_about_that_of_the_normal_distribution() -> None:
    found = share(flags(400, 1000), np.ones(1000))
    half = 1.96 * math.sqrt(0.4 * 0.6 / 1000)
    assert found.value == 0.4
    assert found.low == pytest.approx(0.4 - half, abs=0.004)
    assert found.high == pytest.approx(0.4 + half, abs=0.004)
    assert share(flags(400, 1000), np.ones(1000)) == found, "the same draws every time"


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        found = share(generator.binomial(1, 0.3, 150).astype(float), np.ones(150), seed)
        hits += (found.low or 0) <= 0.3 <= (found.high or 1)
    assert 180 <= hits <= 199


def test_samples_of_one_prompt_are_no_new_evidence() -> None:
    once = share(flags(10), ONES)
    copied = share(flags(10) * 5, ONES * 5)
    apart = share(np.repeat(flags(10), 5), np.ones(200))
    assert copied == once
    assert (apart.high or 0) - (apart.low or 0) < 0.6 * ((once.high or 0) - (once.low or 0))


def test_none_and_all_have_exact_ends() -> None:
    none, every = share(flags(0), ONES), share(ONES, ONES)
    assert (none.value, none.low) == (0, 0)
    assert (1 - (none.high or 0)) ** 40 == pytest.approx(0.025)
    assert (every.value, every.high) == (1, 1)
    assert (every.low or 0) ** 40 == pytest.approx(0.025)
    assert share(flags(0), ONES, bounded=False).high is None


def test_a_share_of_nothing_is_nothing() -> None:
    assert share(np.zeros(3), np.zeros(3)).value == 0


def test_the_swap_test_equals_the_sign_test_on_ones() -> None:
    """With one completion a prompt it is McNemar's exact test: a binomial of the prompts that differ."""
    first, second = flags(3), np.concatenate((np.zeros(30), np.ones(9), np.zeros(1)))
    columns = np.stack((first, ONES, second, ONES), 1)
    tail = sum(math.comb(12, k) for k in range(13) if abs(k - 6) >= 3) / 2**12
    assert swap_test(columns) == pytest.approx(tail)


def test_the_swap_test_equals_brute_force_on_ratios() -> None:
    generator = np.random.default_rng(3)
    columns = generator.integers(1, 9, (7, 4)).astype(float)
    observed = np.subtract(*(columns[:, k].sum() / columns[:, k + 1].sum() for k in (2, 0)))
    extreme = 0
    for swaps in product([False, True], repeat=7):
        swapped = np.where(np.array(swaps)[:, None], columns[:, [2, 3, 0, 1]], columns)
        gap = np.subtract(*(swapped[:, k].sum() / swapped[:, k + 1].sum() for k in (2, 0)))
        extreme += abs(gap) >= abs(observed) - 1e-12
    assert swap_test(columns) == pytest.approx(extreme / 2**7)


def test_drawn_swaps_agree_with_the_normal_distribution() -> None:
    generator = np.random.default_rng(1)
    first, second = (generator.binomial(1, rate, 2000).astype(float) for rate in (0.10, 0.13))
    whole = np.ones(2000)
    moves = second - first
    z = abs(moves.sum()) / math.sqrt((moves**2).sum())
    assert swap_test(np.stack((first, whole, second, whole), 1)) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)


def test_a_difference_is_paired() -> None:
    """Prompts that are hard for both widen each interval, not that of the difference."""
    generator = np.random.default_rng(2)
    first = generator.binomial(5, np.where(np.arange(300) % 2, 0.9, 0.1)).astype(float)
    second = np.minimum(first + (np.arange(300) % 10 == 0), 5)
    whole = np.full(300, 5.0)
    found = difference((first, whole), (second, whole))
    alone = share(first, whole)
    assert found.value == pytest.approx((second.sum() - first.sum()) / 1500)
    assert 0 < (found.low or 0) < found.value < (found.high or 0)
    assert (found.high or 0) - (found.low or 0) < 0.3 * ((alone.high or 0) - (alone.low or 0))
    assert found.p < 0.001


def test_equal_counts_differ_by_nothing() -> None:
    found = difference((flags(7), ONES), (flags(7), ONES))
    assert (found.value, found.low, found.high, found.p) == (0, None, None, 1)
