"""The loss curve as a reader sees it."""

import math
import re

import pytest

from remodeler.reporting.training import points, smooth, summary, thinned

LINES = [{"step": 0, "heldout": 2.0}] + [{"step": step, "loss": 3.0 - step / 100} for step in range(1, 61)]


def test_points_are_the_lines_that_have_both() -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2}, {"loss": 1.0}, {"step": 3, "loss": None}, {"step": 4, "loss": 1.5}]
    assert points(lines, "loss") == [(1, 2.0), (4, 1.5)]


def test_smoothing_starts_at_the_curve_and_leaves_a_level_one_alone() -> None:
    level = [(step, 2.5) for step in range(90)]
    assert [value for _, value in smooth(level)] == pytest.approx([2.5] * 90)
    steps = smooth([(0, 4.0), *((step, 2.0) for step in range(1, 90))])
    assert steps[0] == (0, 4.0)
    assert 2.0 < steps[5][1] < 3.0
    assert smooth([(0, 4.0), (1, 2.0)]) == [(0, 4.0), (1, 2.0)], "a short run is shown as it is"


def test_a_long_curve_is_thinned_to_its_end() -> None:
    thin = thinned([(step, 0.0) for step in range(10_001)])
    assert len(thin) < 1600
    assert thin[-1][0] == 10_000


def test_the_figure_has_the_loss_and_the_held_out_perplexity_where_it_was_measured() -> None:
    alone = summary(LINES)
    both = summary([*LINES, {"step": 60, "heldout": 1.5}])
    assert alone
    assert both
    words = [re.sub(r"<[^>]*>", " ", svg) for svg in (alone["figure"], both["figure"])]
    assert "held-out perplexity" not in words[0]
    assert "held-out perplexity" in words[1]
    assert f"{math.exp(1.5):.4g} at step 60" in words[1]
    assert "right" not in alone["caption"]
    assert "right, perplexity" in both["caption"]


def test_no_figure_without_two_steps() -> None:
    assert summary([]) is None
    assert summary([{"what": "header"}, {"step": 1, "loss": 2.0}]) is None
