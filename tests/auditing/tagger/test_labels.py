"""Spans become tags of pieces and come back; thresholds and post-processing do what they say."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.spans import Span, from_characters, from_mask, mask
from remodeler.auditing.statistics.scoring import score
from remodeler.auditing.tagger.config import PredictionRulesConfig
from remodeler.auditing.tagger.labels import (
    SCHEMES,
    Pieces,
    batches,
    join_windows,
    likelihoods,
    soft_tags,
    tags,
    tokenize_texts,
)
from remodeler.auditing.tagger.rules import GRID, Rules, spans_of, tune
from remodeler.errors import InputError
from tiny_tokenizers import byte_level, pieces, word_pieces

TEXT = "the idiot  moron, a naïve 😀 dog"
TOKENIZERS = {
    "bert": word_pieces(),
    "gpt2": byte_level(),
    "roberta": byte_level(prefix_space=True, start="<s>"),
    "llama": pieces(),
    "xlnet": pieces(scheme="always"),
}


def back(text: str, spans: list[Span], scheme: str, found: Pieces, number: int = 0) -> list[Span]:
    """Spans to tags to spans."""
    at = found.offsets[number]
    certain = np.eye(len(SCHEMES[scheme]))[tags(spans, at, scheme)]
    return from_mask(likelihoods(certain, at, len(text)) >= 0.5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_spans_of_whole_words_come_back(name: str, scheme: str) -> None:
    found = tokenize_texts([TEXT], TOKENIZERS[name], 64, 8)
    spans = [Span(4, 9), Span(20, 27)]
    assert back(TEXT, spans, scheme, found) == spans


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_hold_no_white_space_at_their_edges(name: str) -> None:
    for start, end in tokenize_texts([TEXT + " \n "], TOKENIZERS[name], 64, 8).offsets[0]:
        piece = (TEXT + " \n ")[start:end]
        assert piece == piece.strip() or not piece.strip()


def test_neighbours_are_one_span_in_io_and_two_in_bio() -> None:
    found = tokenize_texts([TEXT], TOKENIZERS["bert"], 64, 8)
    two = [Span(4, 9), Span(11, 16)]
    assert back(TEXT, two, "io", found) == [Span(4, 16)]
    assert back(TEXT, two, "bio", found) == two


def test_a_piece_is_inside_by_more_than_half_of_it() -> None:
    offsets = np.array([[0, 4], [5, 9]])
    assert tags([Span(0, 2)], offsets, "io").tolist() == [0, 0]
    assert tags([Span(0, 3), Span(6, 9)], offsets, "io").tolist() == [1, 1]
    assert tags([Span(0, 9)], offsets, "bio").tolist() == [1, 2]


@given(st.sets(st.integers(0, 39)), st.lists(st.integers(0, 5), max_size=12))
def test_tags_are_those_of_counting(places: set[int], sizes: list[int]) -> None:
    """A piece belongs to the span with most of its characters, of equal ones to the first."""
    spans = from_characters(places)
    edges = np.minimum(np.cumsum([0, *sizes]), 40)
    offsets = np.stack([edges[:-1], edges[1:]], axis=1)
    shared = [
        [len(set(range(*pair)) & set(range(span.start, span.end))) for span in spans] for pair in offsets.tolist()
    ]
    inside = [2 * sum(row) > end - start for row, (start, end) in zip(shared, offsets.tolist(), strict=True)]
    owners = [int(np.argmax(row)) if is_in else -1 for row, is_in in zip(shared, inside, strict=True)]
    assert tags(spans, offsets, "io").tolist() == [int(each) for each in inside]
    begins = [one != two for one, two in pairwise([-1, *owners])]
    wanted = [0 if not is_in else 1 if begin else 2 for is_in, begin in zip(inside, begins, strict=True)]
    assert tags(spans, offsets, "bio").tolist() == wanted


def test_a_gap_is_as_likely_as_the_less_likely_piece_that_goes_on() -> None:
    offsets = np.array([[0, 2], [3, 5]])
    io = np.array([[0.1, 0.9], [0.4, 0.6]])
    assert likelihoods(io, offsets, 6).tolist() == pytest.approx([0.9, 0.9, 0.6, 0.6, 0.6, 0])
    bio = np.array([[0.1, 0.9, 0.0], [0.4, 0.5, 0.1]])
    assert likelihoods(bio, offsets, 6).tolist() == pytest.approx([0.9, 0.9, 0.1, 0.6, 0.6, 0])
    assert likelihoods(io, offsets, 6, fill=False)[2] == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_teacher_that_is_sure_teaches_the_gold_tags(scheme: str) -> None:
    found = tokenize_texts([TEXT], TOKENIZERS["bert"], 64, 8)
    for spans in ([Span(4, 9)], [Span(4, 16)], [Span(4, 9), Span(11, 16)], []):
        sure = mask(spans, len(TEXT)).astype(float)
        wanted = np.eye(len(SCHEMES[scheme]))[tags(spans, found.offsets[0], scheme)]
        assert np.allclose(soft_tags(sure, found.offsets[0], scheme), wanted)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(("length", "stride"), [(12, 4), (12, 0), (9, 6)])
def test_windows_of_a_long_text_hold_every_piece_once(name: str, length: int, stride: int) -> None:
    texts = [TEXT * 6, "", "dog", " \n"]
    whole, parts = (
        tokenize_texts(texts, TOKENIZERS[name], 4096, 8),
        tokenize_texts(texts, TOKENIZERS[name], length, stride),
    )
    for one, two in zip(whole.offsets, parts.offsets, strict=True):
        assert np.array_equal(one, two)
    assert all(len(window.ids) <= length for window in parts.windows)
    numbered = [np.stack([np.arange(w.first, w.first + len(w.places))] * 2, 1) for w in parts.windows]
    for post, found in enumerate(join_windows(parts, numbered)):
        assert np.array_equal(found[:, 0], np.arange(len(parts.offsets[post])))


def test_a_piece_counts_where_it_is_farthest_from_an_edge() -> None:
    parts = tokenize_texts(["the " * 12], TOKENIZERS["bert"], 10, 4)  # windows of 8 pieces that overlap by 4
    assert [window.first for window in parts.windows] == [0, 4]
    said = [np.full((8, 2), 0.0), np.full((8, 2), 1.0)]
    assert join_windows(parts, said)[0][:, 0].tolist() == [0.0] * 6 + [1.0] * 6


def test_texts_without_pieces_have_no_windows() -> None:
    found = tokenize_texts(["", "  ", "the"], TOKENIZERS["bert"], 16, 4)
    assert [window.post for window in found.windows] == [2]
    assert [len(pairs) for pairs in found.offsets] == [0, 0, 1]


def test_batches_are_sorted_and_within_the_budget() -> None:
    found = tokenize_texts(["dog " * count for count in (9, 1, 5, 2, 7, 3)], TOKENIZERS["bert"], 64, 8)
    parts = list(batches(found.windows, 3, 16))
    lengths = [[len(found.windows[number].ids) for number in part] for part in parts]
    assert [each for part in lengths for each in part] == sorted(len(window.ids) for window in found.windows)
    assert all(len(part) <= 3 and (len(part) == 1 or len(part) * max(part) <= 16) for part in lengths)


def test_what_is_refused() -> None:
    slow = type("Slow", (), {"is_fast": False, "name_or_path": "slow"})()
    with pytest.raises(InputError, match="tokenizer of slow is not a fast one"):
        tokenize_texts(["dog"], slow, 16, 4)
    with pytest.raises(InputError, match="windows of 16 tokens can't overlap by 14"):
        tokenize_texts(["dog"], TOKENIZERS["bert"], 16, 14)


@pytest.mark.shared
def test_the_real_training_set_comes_back(shared: Path) -> None:
    """Control: without the gaps the same tags give less."""
    found = read_posts(shared / "data/toxic_spans/tsd_train.csv", known=True)
    parts = tokenize_texts(found.texts, TOKENIZERS["bert"], 256, 64)
    results: dict[bool, list[list[Span]]] = {True: [], False: []}
    for post, at in zip(found.posts, parts.offsets, strict=True):
        certain = np.eye(2)[tags(post.spans or (), at, "io")]
        for fill, rows in results.items():
            rows.append(from_mask(likelihoods(certain, at, len(post.text), fill) >= 0.5))
    filled, bare = (score(results[fill], found.spans).f1 for fill in (True, False))
    assert filled >= 0.997 > bare


# Rules ----------------------------------------------------------------------------------------------------------------


def test_post_processing() -> None:
    text = "a bigot's life "
    likely = np.array([0.0, 0.6, 0.7, 0.8] + [0.0] * 11)
    assert spans_of(likely, text, Rules(trim=False)) == [Span(1, 4, pytest.approx(0.7, abs=1e-4))]
    assert spans_of(likely, text, Rules()) == [Span(2, 4, pytest.approx(0.75, abs=1e-4))]
    assert [(each.start, each.end) for each in spans_of(likely, text, Rules(words=True, trim=False))] == [(1, 9)]
    assert spans_of(likely, text, Rules(shortest=3)) == []
    assert spans_of(likely, text, Rules(threshold=0.75)) == [Span(3, 4, 0.8)]
    assert spans_of(likely, text, Rules(abstain=0.9)) == []
    assert spans_of(np.zeros(0), "", Rules()) == []


def test_the_tuned_threshold_is_the_best_of_all() -> None:
    generator = np.random.default_rng(0)
    texts = ["x" * 30] * 40
    gold = [[Span(3, 9)] if number % 3 else [] for number in range(40)]
    likely = [0.25 * mask(spans, 30) + 0.2 * generator.random(30) for spans in gold]
    rules = tune(likely, texts, gold, Rules())
    found = [spans_of(one, text, rules) for one, text in zip(likely, texts, strict=True)]
    plain = [spans_of(one, text, Rules()) for one, text in zip(likely, texts, strict=True)]
    assert score(found, gold).f1 > 0.9 > score(plain, gold).f1
    assert 0.2 <= rules.threshold <= 0.26


def test_abstention_pays_where_weak_signals_are_false() -> None:
    texts = ["x" * 10] * 20
    likely = [np.where(np.arange(10) < 5, 0.9 if number < 10 else 0.6, 0.55 * (number < 10)) for number in range(20)]
    gold = [[Span(0, 10)] if number < 10 else [] for number in range(20)]
    rules = tune(likely, texts, gold, Rules())
    assert rules.threshold <= 0.55 < 0.6 < rules.abstain <= 0.9
    assert score([spans_of(one, "x" * 10, rules) for one in likely], gold).f1 == 1.0
    never = [score([spans_of(one, "x" * 10, Rules(threshold=each)) for one in likely], gold).f1 for each in GRID]
    assert max(never) < 1.0


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"abstain": -0.1}, {"decode": "beam"}, {"shortest": 0}])
def test_rules_that_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(wrong))}`"):
        PredictionRulesConfig(**wrong)  # type: ignore[arg-type]
