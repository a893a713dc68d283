"""Predictions come back from every kind of file; what other tools speak is spoken."""

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remodeler.auditing.formats.conll import from_words, tagged_words
from remodeler.auditing.formats.predictions import (
    FORMATS,
    SUBMISSION,
    Prediction,
    as_dicts,
    read_predictions,
    write_predictions,
)
from remodeler.auditing.formats.spacy_groups import from_group, to_doc
from remodeler.auditing.spans import Span, from_characters
from remodeler.errors import InputError

TEXT = 'He\'s a "moron",\nan idiot 😀 & a naïve\tfool.'
ROWS = [
    Prediction(0, (Span(7, 14, 0.75), Span(16, 24, 0.5)), TEXT),
    Prediction(1, (), "plain\n\n# text = x"),
    Prediction(7, (Span(0, 2, 1.0),), "😀😀 ok"),
]


def bare(rows: tuple[Prediction, ...]) -> list[tuple[int, list[tuple[int, int]]]]:
    return [(row.id, [(span.start, span.end) for span in row.spans]) for row in rows]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_kind_of_file_comes_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    write_predictions(path, ROWS)
    found = read_predictions(path).rows
    wanted = bare(tuple(ROWS))
    if suffix == ".csv":  # its ids are its rows
        wanted = [(number, spans) for number, (_, spans) in enumerate(wanted)]
    assert bare(found) == wanted
    if suffix in (".jsonl", ".conll", ".csv"):
        assert [row.text for row in found] == [row.text for row in ROWS]
    if suffix == ".jsonl":
        assert found[0].spans == ROWS[0].spans  # scores too
    before = path.read_bytes()
    write_predictions(path, found if suffix != ".csv" else ROWS)
    assert path.read_bytes() == before


def test_a_submission_as_semeval_wants_it(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.txt", ROWS[1:])
    assert (tmp_path / "a.txt").read_text() == "1\t[]\n7\t[0, 1]\n"
    write_predictions(tmp_path / "a.zip", ROWS[1:])
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == [SUBMISSION]


def test_likelihoods_come_back_to_four_digits(tmp_path: Path) -> None:
    likely = np.array([0.123456] * 4 + [0.9] * 2)
    write_predictions(tmp_path / "a.jsonl", [Prediction(3, (Span(4, 6),), "abcdef", likely)])
    assert json.loads((tmp_path / "a.jsonl").read_text())["likely"] == [[4, 0.1235], [2, 0.9]]
    found = read_predictions(tmp_path / "a.jsonl").rows[0].likely
    assert found is not None
    assert np.allclose(found, likely, atol=5e-5)


@given(st.text(alphabet="ab' \n.😀", max_size=30), st.sets(st.integers(0, 29)))
def test_tagged_words_lose_no_more_than_white_space_at_the_ends(text: str, places: set[int]) -> None:
    spans = [
        each
        for each in from_characters(place for place in places if place < len(text))
        if text[each.start : each.end] == text[each.start : each.end].strip()
    ]
    assert from_words(tagged_words(text, spans)) == spans


def test_conll_without_places_is_joined_by_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("You O\nfool B-TOX\nyou I-TOX\n\nHello O\n")
    found = read_predictions(tmp_path / "a.conll").rows
    assert [row.text for row in found] == ["You fool you", "Hello"]
    assert bare(found) == [(0, [(4, 12)]), (1, [])]


def test_white_space_that_is_no_space_is_part_of_a_word(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("old\u00a0man  O\na\u2028moron B-TOX\n", encoding="utf-8")
    (row,) = read_predictions(tmp_path / "a.conll").rows
    assert (row.text, row.spans) == ("old\u00a0man a\u2028moron", (Span(8, 15),))


def test_marks_of_documents_are_no_posts_and_numbers_no_words(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("-DOCSTART- -X- O O\n\n-DOCSTART-\n\na DT B-NP O\nmoron NN I-NP B-TOX\n")
    (row,) = read_predictions(tmp_path / "a.conll").rows
    assert (row.id, row.text) == (0, "a moron")
    (tmp_path / "b.conll").write_text("1\ta\t_\tO\n2\tmoron\t_\tB-TOX\n")
    with pytest.raises(InputError, match="numbers instead of words"):
        read_predictions(tmp_path / "b.conll")


@pytest.mark.parametrize("tags", ["B-X I-X I-X O B-X", "I I I O I", "B-X I-X E-X O S-X", "B I L O U", "B M E O S"])
def test_every_scheme_of_tags_is_the_same_spans(tags: str, tmp_path: Path) -> None:
    words = zip(["you", "old", "fool", "said", "he"], tags.split(), strict=True)
    (tmp_path / "a.conll").write_text("".join(f"{word} {tag}\n" for word, tag in words))
    assert bare(read_predictions(tmp_path / "a.conll").rows) == [(0, [(0, 12), (18, 20)])]


@pytest.mark.parametrize("tag", ["N", "O-X", "NN", "b"])
def test_parts_of_speech_are_no_tags(tag: str, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(f"you O\nfool {tag}\n")
    with pytest.raises(InputError, match="its last word is not a tag"):
        read_predictions(tmp_path / "a.conll")


def test_line_ends_inside_a_text_come_back_in_every_kind(tmp_path: Path) -> None:
    rows = [
        Prediction(0, (Span(0, 3),), text)
        for text in ["old\rfool", "old\r\nfool", "old\u2028\x85\x0cfool", "old # fool"]
    ]
    rows = [Prediction(number, row.spans, row.text) for number, row in enumerate(rows)]
    for suffix in (".csv", ".jsonl", ".conll"):
        write_predictions(tmp_path / f"a{suffix}", rows)
        assert list(read_predictions(tmp_path / f"a{suffix}").rows) == rows
    (tmp_path / "b.conll").write_text("you O\n# O\nfool B\n")
    assert read_predictions(tmp_path / "b.conll").rows == (Prediction(0, (Span(6, 10),), "you # fool"),)


def test_dicts_are_those_of_the_pipelines() -> None:
    found = as_dicts("an idiot", [Span(3, 8, 0.5)])
    assert found == [{"entity_group": "TOXIC", "score": 0.5, "word": "idiot", "start": 3, "end": 8}]


class Group(list[Any]):
    def __init__(self, entries: list[Any]) -> None:
        super().__init__(entries)
        self.attrs: dict[str, Any] = {}


class Groups(dict[str, Any]):
    def __setitem__(self, key: str, value: list[Any]) -> None:
        super().__setitem__(key, Group(value))


def char_span(start: int, end: int, label: str, alignment_mode: str) -> Any:
    assert alignment_mode == "expand"
    return SimpleNamespace(start_char=start, end_char=end, label_=label)


def test_spacy_groups_come_back() -> None:
    doc = SimpleNamespace(spans=Groups(), char_span=char_span)
    spans = [Span(0, 4, 0.5), Span(6, 8, 0.25)]
    group = to_doc(doc, spans)
    assert group is doc.spans["toxic"]
    assert from_group(group) == spans
    assert from_group(list(group)) == [Span(0, 4), Span(6, 8)]
    to_doc(doc, [Span(0, 4, 0.5), Span(2, 8, 0.25), Span(2, 8, 0.75)])
    assert from_group(doc.spans["toxic"]) == [Span(0, 8, 0.75)], "those of a group may overlap"


BAD = [
    ("a.txt", "0\t[1]\tx\n", "row 1 of .*a.txt is not id<TAB>"),
    ("a.txt", "zero\t[1]\n", "row 1 of .* is not id<TAB>"),
    ("a.txt", "0\tnone\n", "row 1 of .* has spans 'none'"),
    ("a.txt", "0\t[-1]\n", "outside its text"),
    ("a.txt", "0\t[1]\n0\t[2]\n", "has the id 0 more than once"),
    ("a.jsonl", '{"id": 0}\n', "row 1 of .* is not a prediction"),
    ("a.jsonl", '{"id": 0, "text": "a", "spans": [3]}\n', "offsets 3 to 3 outside its text of 1"),
    ("a.jsonl", '{"id": 0, "text": "ab", "spans": [], "likely": [[1, 0.5]]}\n', "likelihoods of another text"),
    ("a.conll", "alone\n", "post 1 of .* has the line 'alone'"),
    ("a.conll", "# text = oops\n", "post 1 of .* has a text that is not a JSON string"),
    ("a.zip", "no zip", "is not a submission"),
    ("a.doc", "", "is of an unsupported file type"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD)
def test_files_that_are_refused(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        read_predictions(tmp_path / name)


def test_an_unreadable_list_counts_as_empty_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0\t[1]\n1\tnone\n")
    found = read_predictions(tmp_path / "a.txt", skip_bad=True)
    assert bare(found.rows) == [(0, [(1, 2)]), (1, [])]
    assert len(found.bad) == 1


def test_what_needs_texts_says_so(tmp_path: Path) -> None:
    for suffix in (".conll", ".csv"):
        with pytest.raises(InputError, match="these predictions have no texts"):
            write_predictions(tmp_path / f"a{suffix}", [Prediction(0, ())])
    assert list(tmp_path.iterdir()) == []
