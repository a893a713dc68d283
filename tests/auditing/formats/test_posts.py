"""Posts are read as they are written; what can't be read ends in one sentence, or is counted."""

import json
from pathlib import Path

import pytest

from remodeler.auditing.formats.posts import LONGEST, Post, read_posts
from remodeler.auditing.formats.span_lists import read_spans
from remodeler.auditing.spans import Span
from remodeler.errors import InputError

HEADER = "spans,text\n"
GOOD = '"[0, 1]",an idiot\n'


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_rows_of_a_csv_with_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    content = HEADER + '"[1, 0, 5]","a ""b"",\r\nc"\r\n[],plain\r\n'
    found = read_posts(written(tmp_path / "a.csv", content), known=True)
    assert found.texts == ['a "b",\r\nc', "plain"]
    assert found.spans == [[Span(0, 2), Span(5, 6)], []]
    assert [post.id for post in found.posts] == [0, 1]


def test_the_three_ways_to_write_spans_are_one(tmp_path: Path) -> None:
    ways = [[0, 1, 2], [[0, 3]], [{"start": 0, "end": 3, "word": "abc"}]]
    lines = "".join(json.dumps({"text": "abcdef", "spans": way}) + "\n" for way in ways)
    found = read_posts(written(tmp_path / "a.jsonl", "\ufeff" + lines), known=True)
    assert found.spans == [[Span(0, 3)]] * 3


def test_offsets_are_code_points(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", HEADER + '"[2]",😀 x\n')
    assert read_posts(path, known=True).posts[0].text[2] == "x"


def test_texts_alone_have_no_spans(tmp_path: Path) -> None:
    assert read_posts(written(tmp_path / "a.csv", "text\nhello\n")).posts[0].spans is None
    assert read_posts(written(tmp_path / "a.txt", "hello\r\n\r\nthere\n")).texts == ["hello", "", "there"]


BAD = [
    (HEADER + GOOD + '"[0]","ab"c\n', r"row 2 of .*bad.csv \(line 3\) has broken quotes"),
    (HEADER + GOOD + '"[0]","never closed\n', "row 2 of .* has broken quotes .*unexpected end"),
    (HEADER + GOOD + "[0],a,b\n", "row 2 of .* has 3 columns, the header 2"),
    (HEADER + GOOD + "[7],short\n", "row 2 of .* has offsets 7 to 7 outside its text of 5 characters"),
    (HEADER + GOOD + '"[-1, 0]",short\n', "row 2 of .* has offsets -1 to 0 outside"),
    (HEADER + GOOD + "one,short\n", "row 2 of .* has spans 'one'"),
    (HEADER + GOOD + "[true],short\n", "row 2 of .* has spans"),
    (HEADER + GOOD + '"[[3, 1]]",short\n', "is empty: ends are excluded"),
    (
        (HEADER + GOOD).encode() + b"[0],caf\xe9\n",
        r"row 2 of .* is not UTF-8 text \(the byte 0xe9 at character 3, after 'caf'\)",
    ),
    (HEADER + GOOD + "[0]," + "a" * 1_000_000 + "\n", f"row 2 of .* has 1,000,000 characters, at most {LONGEST:,}"),
]


@pytest.mark.parametrize(("content", "words"), BAD)
def test_a_bad_row_is_named_or_left_out_and_counted(content: str | bytes, words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "bad.csv", content)
    with pytest.raises(InputError, match=words):
        read_posts(path, known=True)
    found = read_posts(path, known=True, skip_bad=True)
    assert (len(found.posts), len(found.bad)) == (1, 1)
    assert found.posts == (Post("an idiot", (Span(0, 2),), 1, str(path)),)


def test_rows_after_a_bad_one_keep_their_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", HEADER + "[9],short\n" + GOOD)
    assert [post.id for post in read_posts(path, known=True, skip_bad=True).posts] == [1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "span,txt\n[0],a\n", "row 1 of .* has span, txt and no text and no spans: name them so"),
        ("a.csv", "", "is empty"),
        ("a.csv", HEADER, "is empty"),
        ("a.txt", "abc\n", "has texts without spans"),
        ("a.xml", "abc\n", "ends in .xml: texts are read from .txt, .jsonl, .json, .csv, .parquet"),
        ("a.jsonl", "{\n", "row 1 of .* is not valid JSON"),
        ("a.jsonl", '{"spans": []}\n', "row 1 of .* has spans and no text"),
        ("a.jsonl", '{"text": "a"}\n', "row 1 of .* has text and no spans"),
        ("a.jsonl", '{"text": "\\ud800", "spans": []}\n', "half a character, .ud800, at character 0 of a text"),
    ],
)
def test_files_that_are_refused(name: str, content: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_posts(written(tmp_path / name, content), known=True)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_posts(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is a folder: give a file"):
        read_posts(tmp_path / "folder.csv")


def test_deep_nesting_is_one_sentence() -> None:
    with pytest.raises(InputError, match="here has spans"):
        read_spans("[" * 100_000, "short", "here")
