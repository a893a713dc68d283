"""Spans are sets of characters: every conversion goes there and back."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from remodeler.auditing.spans import Span, characters, from_characters, from_mask, mask

PLACES = st.sets(st.integers(0, 60))


@given(PLACES)
def test_a_set_of_characters_comes_back(places: set[int]) -> None:
    spans = from_characters(places)
    assert characters(spans) == sorted(places)
    assert from_mask(mask(spans, 61)) == spans


@given(PLACES)
def test_runs_are_sorted_disjoint_and_do_not_touch(places: set[int]) -> None:
    spans = from_characters(places)
    assert all(span.start < span.end for span in spans)
    assert all(one.end < two.start for one, two in pairwise(spans))


def test_a_run_has_the_mean_score_of_its_characters() -> None:
    marked = np.array([False, True, True, False, True])
    scores = np.array([0.1, 0.6, 0.8, 0.2, 0.5])
    assert from_mask(marked, scores) == [Span(1, 3, float(np.mean([0.6, 0.8]))), Span(4, 5, 0.5)]


def test_overlapping_spans_count_a_character_once() -> None:
    assert characters([Span(2, 5), Span(4, 6)]) == [2, 3, 4, 5]
    assert from_characters([5, 4, 4, 3, 2]) == [Span(2, 6)]


def test_no_characters_are_no_spans() -> None:
    assert from_mask(np.zeros(0, dtype=bool)) == from_characters([]) == characters([]) == []
