"""Spans as annotators and tools write them are one meaning, or are refused in words with their row."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.formats.predictions import Prediction, read_predictions, write_predictions
from remodeler.auditing.formats.span_lists import merge_overlaps, read_spans
from remodeler.auditing.spans import Span, characters, from_characters
from remodeler.errors import InputError

TEXT = "what a daft old fool"
DAFT, FOOL = Span(7, 11), Span(16, 20)


@pytest.mark.parametrize(
    "value",
    [
        [7, 8, 9, 10, 16, 17, 18, 19],
        [10.0, 9, 8.0, 7, 7, 16, 17, 18, 19],
        [[16, 20], [7.0, 11]],
        [(7, 11), (16, 20)],
        [[7, 11, "insult"], [16, 20, "TOXIC"]],
        [[7, 10, "a"], [8, 11, "b"], [16, 20, "a"], [16, 20, "b"]],
        [[7, 11, ["insult", "threat"]], [16, 20, None]],
        [{"start": 7, "end": 11, "label": "insult"}, {"start": 8, "end": 11}, {"start": 16, "end": 20}],
        [{"start": 16, "end": 20, "labels": ["insult", "threat"], "text": "fool"}, {"start": 7.0, "end": 11.0}],
        [{"start": 7, "end": 11, "token_start": 2, "annotator": "a"}, {"start": 16, "end": 20, "word": "FOOL"}],
    ],
)
def test_all_ways_to_write_spans_are_one(value: list[Any]) -> None:
    for written in (value, json.dumps(value), repr(value)):
        assert read_spans(written, TEXT, "row 1") == [DAFT, FOOL]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda pair: (pair[0], pair[0] + pair[1]))))
def test_united_spans_hold_the_same_characters_and_are_disjoint(pairs: list[tuple[int, int]]) -> None:
    spans = [Span(start, end) for start, end in pairs]
    found = merge_overlaps(spans)
    assert characters(found) == characters(spans)
    assert found == sorted(found)
    assert all(one.end <= two.start for one, two in pairwise(found))
    assert from_characters(characters(found)) == from_characters(characters(spans))


def test_spans_that_only_touch_stay_two_and_the_highest_score_is_kept() -> None:
    assert read_spans([[0, 4], [4, 6]], TEXT, "row 1") == [Span(0, 4), Span(4, 6)]
    scored = [{"start": 0, "end": 4, "score": 0.25}, {"start": 2, "end": 6, "score": 0.5}, {"start": 6, "end": 8}]
    assert read_spans(scored, TEXT, "row 1") == [Span(0, 6, 0.5), Span(6, 8, 1.0)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing: where nothing is marked, .. is written"),
        ("", "an empty cell"),
        ("null", "nothing: where"),
        ("none", "not a list in JSON"),
        ("[4 5 6]", "not a list in JSON"),
        ("4, 5", "not a list"),
        ("(4, 9)", "not a list"),
        ("{4, 5}", "not a list"),
        ("[{'start': 1, 'start': 2, 'end': 9}]", "not a list in JSON"),
        (7, "not a list"),
        ({"ann": [4, 5], "bob": [5, 6]}, "an object with ann, bob, not a list: put the spans of all annotators in one"),
        (["4", "5"], "'4' is not a span: all must be numbers, or all"),
        ([4, [5, 9]], "'4' is not a span"),
        ([True], "'True' is not a span"),
        ([4.5], "'4.5' is not an integer"),
        ([float("nan")], "'nan' is not an integer"),
        ([[4, 9, 0.5]], "neither .start, end. nor .start, end, label."),
        ([[4, 5, 6], [5, 6, 7]], "neither .start, end. nor"),
        ([[4]], "neither .start, end."),
        ([[]], "neither .start, end."),
        ([[[4, 9]], [[4, 9]]], "neither .start, end."),
        ([["4", "9"]], "'4' is not an integer"),
        ([[9, 4]], r"\[9, 4\] is empty: ends are excluded"),
        ([[4, 4]], "is empty"),
        ([[4, 9, "O"]], "a span is labelled 'O', which marks what is not toxic"),
        ([{"start": 4, "end": 9, "label": "Non-Toxic"}], "a span is labelled 'Non-Toxic'"),
        ([{"start": 4, "end": 9, "labels": ["neutral"]}], "a span is labelled 'neutral'"),
        ([{"start_offset": 4, "end_offset": 9}], "an object with start_offset, end_offset, not start and end"),
        ([{"start": 4, "end": 9, "unit": "token"}], "an object with unit, which is unknown"),
        ([{"start": 7, "end": 10, "word": "daft"}], "'daft' ends at 11, not at 10: ends are excluded"),
        ([{"start": 4, "end": 9, "score": "high"}], "the score 'high' is not a number"),
        ([{"start": 4, "end": 9, "score": 10**400}], "too large"),
        ([[-3, 2]], "offsets -3 to 1 outside its text of 20 characters"),
        ([[18, 21]], "offsets 18 to 20 outside"),
        ('[{"start": 1, "start": 2, "end": 9}]', "not a list in JSON: the name 'start' twice"),
    ],
)
def test_other_lists_are_refused_in_words(value: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"row 3 of f has .*{words}") as caught:
        read_spans(value, TEXT, "row 3 of f")
    assert "\n" not in str(caught.value)


def test_offsets_without_a_text_are_those_of_some_text() -> None:
    assert read_spans([[4, 9]], None, "row 1") == [Span(4, 9)]
    with pytest.raises(InputError, match="offsets 4 to 999999999998 outside its text"):
        read_spans([[4, 999_999_999_999]], None, "row 1")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": TEXT, "label": [[7, 11, "X"]]}, "row 1 of .* has text, label and no spans: name them so"),
        ({"text": TEXT, "entities": []}, "has text, entities and no spans"),
        ({"id": 1, "data": {"text": TEXT}, "annotations": []}, "has id, data, annotations and no text and no spans"),
        ({"text": TEXT, "spans": None}, "row 1 of .* has spans 'None' .nothing"),
        ({"text": None, "spans": []}, "row 1 of .* has 'None' instead of a text"),
    ],
)
def test_rows_of_other_tools_say_what_is_missing(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=words):
        read_posts(tmp_path / "a.jsonl", known=True)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".conll"])
def test_what_several_annotators_marked_is_converted_as_one(suffix: str, tmp_path: Path) -> None:
    marked = [{"start": 7, "end": 15, "label": "a"}, {"start": 7, "end": 11, "label": "b"}]
    (tmp_path / "a.json").write_text(json.dumps([{"text": TEXT, "spans": marked}]))
    found = read_predictions(tmp_path / "a.json").rows
    assert found == (Prediction(0, (Span(7, 15),), TEXT),)
    if suffix != ".json":
        write_predictions(tmp_path / f"b{suffix}", found)
        assert read_predictions(tmp_path / f"b{suffix}").rows == found


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"id": 1.5, "spans": []}\n', "row 1 of .*its id is '1.5', not an integer"),
        ("a.jsonl", '{"id": true, "spans": []}\n', "its id is 'True'"),
        ("a.jsonl", '{"text": 5, "spans": []}\n', "its text is '5'"),
        ("a.jsonl", '{"id": 1}\n', "is not a prediction .no 'spans'"),
        ("a.jsonl", '{"id": 1, "spans": [], "spans": [4]}\n', "the name 'spans' twice"),
        ("a.conll", '# text = "a fool"\na\t0\t1\tO\nfool\t2\t5\tB-TOXIC\n', "has the word 'fool' at 2 to 5, where"),
        ("a.conll", '# text = "a, fool"\na O\nfool B-TOXIC\n', "has the word 'fool' at 2 to 6"),
        ("a.conll", "a O\nfool B-neutral\n", "labelled 'neutral', which marks what is not toxic"),
        ("a.conll", '# text = "\\ud800"\na O\n', "half a character"),
        ("a.txt", "0\t[4, 4.5]\n", "row 1 of .*'4.5' is not an integer"),
    ],
)  # fmt: skip
def test_predictions_that_do_not_say_what_they_mean_are_refused(
    name: str, content: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        read_predictions(tmp_path / name)


def test_rows_without_an_id_are_counted_and_ids_may_be_digits(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"spans": [4.0]}\n\n{"spans": []}\n{"id": "7", "spans": []}\n{"id": 8.0, "spans": []}\n'
    )
    assert [row.id for row in read_predictions(tmp_path / "a.jsonl").rows] == [0, 1, 7, 8]


@pytest.mark.parametrize(("start", "end", "word"), [(7, 12, "a fool"), (0, 4, "fool"), (5, 9, "moron")])
def test_a_word_that_is_not_where_its_object_says_is_refused(start: int, end: int, word: str) -> None:
    for name in ("word", "text"):
        with pytest.raises(InputError, match=rf"'{word}' is not at {start} to {end}"):
            read_spans([{"start": start, "end": end, name: word}], "Such a fool", "row 1")


@pytest.mark.parametrize("word", ["FOOL", "##fool", " fool", "f o o l", "[UNK]", None])
def test_a_word_may_be_written_as_tokenizers_do(word: str | None) -> None:
    assert read_spans([{"start": 7, "end": 11, "word": word}], "Such a fool", "row 1") == [Span(7, 11)]


def test_a_word_in_other_letters_is_not_compared() -> None:
    text = "caf\u00e9s"
    for word in ("cafes", "caf\u00c3\u00a9s"):
        assert read_spans([{"start": 0, "end": 5, "word": word}], text, "row 1") == [Span(0, 5)]


def test_a_harmless_label_among_several_is_refused() -> None:
    with pytest.raises(InputError, match="labelled 'neutral'"):
        read_spans([[7, 11, ["insult", "neutral"]]], TEXT, "row 1")
    with pytest.raises(InputError, match="is neither"):
        read_spans([[7, 11, ["insult", 3]]], TEXT, "row 1")
