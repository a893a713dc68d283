"""The official score and the vote, on cases that can be counted by hand, and by their laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remodeler.auditing.spans import Span, characters, from_characters
from remodeler.auditing.statistics.scoring import breakdown, f1, score, scores, summary
from remodeler.auditing.statistics.voting import vote, vote_all
from remodeler.errors import InputError

SETS = st.lists(st.integers(0, 30), max_size=20)


def test_the_organisers_example() -> None:
    assert f1(from_characters([0, 1, 4, 5]), from_characters([0, 1, 6])) == pytest.approx(0.5714285714285714, abs=1e-15)


def test_the_conventions_for_posts_without_spans() -> None:
    some = [Span(0, 3)]
    assert (f1([], []), f1(some, []), f1([], some)) == (1.0, 0.0, 0.0)


def test_all_empty_on_four_posts_of_which_one_has_no_gold() -> None:
    gold = [[Span(0, 2)], [Span(1, 3)], [], [Span(2, 9)]]
    found = score([[]] * 4, gold)
    assert (found.f1, found.error) == (0.25, 0.25)
    perfect = score(gold, gold)
    assert (perfect.f1, perfect.error, perfect.posts) == (1.0, 0.0, 4)


@given(st.lists(st.tuples(SETS, SETS), min_size=1, max_size=8))
def test_f1_is_symmetric_bounded_and_one_only_for_equal_sets(pairs: list[tuple[list[int], list[int]]]) -> None:
    for one, two in pairs:
        ours, theirs = from_characters(one), from_characters(two)
        assert f1(ours, theirs) == f1(theirs, ours)
        assert 0 <= f1(ours, theirs) <= 1
        assert (f1(ours, theirs) == 1) == (set(one) == set(two))


def test_parts_of_the_score_make_the_whole() -> None:
    generator = np.random.default_rng(0)
    gold = [from_characters(generator.integers(0, 40, generator.integers(0, 6)).tolist()) for _ in range(60)]
    found = scores([from_characters(generator.integers(0, 40, 5).tolist()) for _ in gold], gold)
    texts = ["a" * int(generator.integers(1, 700)) for _ in gold]
    parts = breakdown(found, gold, texts)
    whole = parts.pop("all posts")
    lengths = [part for name, part in parts.items() if "characters" in name]
    kinds = [parts["with gold spans"], parts["without gold spans"]]
    for group in (lengths, kinds):
        assert sum(part.posts for part in group) == whole.posts == 60
        assert sum(part.posts * part.f1 for part in group) == pytest.approx(whole.f1 * 60)
    assert whole.error == pytest.approx(np.std(found, ddof=1) / math.sqrt(60))


def test_one_post_has_no_standard_error() -> None:
    assert (summary([0.5]).error, summary([]).posts) == (0.0, 0)


def test_different_numbers_of_posts_are_refused() -> None:
    with pytest.raises(InputError, match="2 posts are predicted and 1 have gold spans"):
        score([[], []], [[]])


@given(st.lists(SETS, min_size=1, max_size=6), st.integers(1, 6))
def test_a_vote_counts_characters(members: list[list[int]], least: int) -> None:
    found = vote([from_characters(member) for member in members], least)
    wanted = {place for place in range(31) if sum(place in member for member in members) >= least}
    assert set(characters(found)) == wanted


def test_one_of_all_is_the_union_and_all_of_all_the_intersection() -> None:
    members = [[Span(0, 6)], [Span(4, 8)], [Span(5, 7)]]
    assert [(each.start, each.end) for each in vote(members, 1)] == [(0, 8)]
    assert vote(members, 3) == [Span(5, 6, 1.0)]
    assert vote(members, 2) == [Span(4, 7, pytest.approx((2 + 3 + 2) / 9))]


def test_a_majority_decides_by_default() -> None:
    assert vote_all([[[Span(0, 1)]], [[Span(0, 1)]], [[]]]) == [[Span(0, 1, pytest.approx(2 / 3))]]
    assert vote_all([[[Span(0, 1)]], [[]]]) == [[]]


@pytest.mark.parametrize(
    ("members", "least", "words"),
    [
        ([[[]], [[], []]], 1, "have 1, 2 texts"),
        ([], 1, "have none texts"),
        ([[[]]], 2, "`at_least` must be <= 1, the number of members .got 2."),
    ],
)
def test_votes_that_are_refused(members: list[list[list[Span]]], least: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        vote_all(members, least)
