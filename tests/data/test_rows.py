"""The same file is the same rows for every verb, and what can't be read for sure is refused with its row."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from remodeler.alignment.data.preferences import read_preferences
from remodeler.alignment.data.prompts import read_prompts, read_responses
from remodeler.auditing import prompts as audited
from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.formats.predictions import read_predictions
from remodeler.data.lines import text_lines
from remodeler.data.questions import read_questions
from remodeler.data.rows import READERS, read_rows
from remodeler.data.sources import read_texts, rows_of
from remodeler.data.strict_json import parse_json
from remodeler.errors import InputError

QUICK = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VERBS: dict[str, Callable[[Path], list[str]]] = {
    "prune": read_texts,
    "align": lambda path: read_prompts(str(path)),
    "audit texts": lambda path: read_posts(path).texts,
    "audit prompts": lambda path: list(audited.read_prompts(str(path)).texts),
}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# The same to all ------------------------------------------------------------------------------------------------------

ALIKE: list[tuple[str, str | bytes, list[str]]] = [
    ("a.csv", 'text,n\n"one, two",1\nthree,2\n', ["one, two", "three"]),
    ("a.csv", '\ufefftext,n\r\n"one\r\ntwo",1\r\nNA,2\r\n', ["one\r\ntwo", "NA"]),
    ("a.csv", '\n , \n Text ,N\none,1\n\n   \n"tw""o",2', ["one", 'tw"o']),
    ("a.csv", ",text,,\n0,one,,\n1,two,,\n", ["one", "two"]),
    ("a.csv", 'text\n"one\u2028\x0c\x85\rstill"\ntwo\x0b\u2029\n', ["one\u2028\x0c\x85\rstill", "two\x0b\u2029"]),
    ("a.csv", "text,n\n" + "x" * 200_000 + ",1\n", ["x" * 200_000]),
    ("a.jsonl", '{"text": "one\u2028\u2029\x85"}\r\n\n  \n{"text": "\\ud83d\\ude00"}', ["one\u2028\u2029\x85", "😀"]),
    ("a.jsonl", '\ufeff"one"\n{"text": "two"}\n', ["one", "two"]),
    ("a.jsonl", ' \n [{"text": "one"},\n {"text": "two"}]\n', ["one", "two"]),
    ("a.json", '{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
    ("a.json", '["one", {"text": "two"}]', ["one", "two"]),
    (
        "a.txt",
        "\ufeffone\u2028\x0b\x0c\x1c\x1d\x1e\x85\rstill\r\n\r\ntwo",
        ["one\u2028\x0b\x0c\x1c\x1d\x1e\x85\rstill", "two"],
    ),
]


@pytest.mark.parametrize(("name", "content", "texts"), ALIKE)
@pytest.mark.parametrize("verb", VERBS)
def test_a_file_is_the_same_to_every_verb(
    verb: str, name: str, content: str | bytes, texts: list[str], tmp_path: Path
) -> None:
    found = VERBS[verb](written(tmp_path / name, content))
    assert [each for each in found if each] == texts


def test_lines_keep_their_numbers_and_blank_ones_are_posts(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "one\n\ntwo\r\n \n")
    assert [(row.number, row.values["text"]) for row in text_lines(path)] == [(1, "one"), (2, ""), (3, "two"), (4, " ")]
    assert audited.read_prompts(str(path)).rows == (0, 2)


def test_parquet_has_null_where_a_value_is_missing(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"text": ["one", None], "score": [float("nan"), 0.5], "spans": [[[0, 3]], []]})
    frame.to_parquet(tmp_path / "a.parquet")
    rows = [row.checked() for row in read_rows(tmp_path / "a.parquet")]
    assert [(row["text"], row["score"]) for row in rows] == [("one", None), (None, 0.5)]
    found = read_posts(tmp_path / "a.parquet", known=True, skip_bad=True)
    assert (found.texts, len(found.bad)) == (["one"], 1)
    assert read_texts(tmp_path / "a.parquet") == ["one"]


# Refused by all, with the row -----------------------------------------------------------------------------------------

U16, U32 = "text\none\n".encode("utf-16"), "text\none\n".encode("utf-32")
REFUSED: list[tuple[str, str | bytes, str]] = [
    ("a.csv", "text,n\none,1\nthe end, my friend,2\n", "row 2 of .*a.csv .line 3. has 3 columns, the header 2: quote"),
    ("a.csv", "text,n\none\n", "row 1 of .* has 1 columns, the header 2"),
    ("a.csv", 'text,n\none,1\nText,"n"\ntwo,2\n', "row 2 of .* .line 3. repeats the header"),
    ("a.csv", '"text,n"\n"one,1"\n', "has one column, 'text,n'"),
    ("a.csv", "text,n,\none,1,\nthe end, my friend,2\n", "row 2 of .* has '2' in a column without a name"),
    ("a.csv", "text;n\none, two;1\n", "has one column, 'text;n': separate columns by commas"),
    ("a.csv", "text\tn\none\t1\n", "has one column, 'text.tn'"),
    ("a.csv", "text,Text\none,two\n", "the header of .* names 'text' twice"),
    ("a.csv", 'text,n\n"one,1\ntwo,2\n', "row 1 of .* .lines 2 to 3. has broken quotes .unexpected end"),
    ("a.csv", 'text,n\n"He said \\"hi, you\\"",1\n', "row 1 of .* .line 2. has broken quotes"),
    ("a.csv", "text,n\no\rne,1\n", "row 1 of .* has a carriage return outside of quotes"),
    ("a.csv", '"text,n\n', "the header of .* is broken"),
    ("a.csv", "text,n\rone,1\r", "end in carriage returns alone: save it with newlines"),
    ("a.csv", b"text,n\none,1\ncaf\xe9,2\n", "row 2 of .* .the byte 0xe9 at character 3, after 'caf'.: convert"),
    ("a.csv", b"text,n\no\0ne,1\n", "row 1 of .* has a NUL byte at character 1"),
    ("a.csv", "text\none\n".encode("utf-16-le"), "the header of .* has a NUL byte"),
    ("a.txt", "one\rtwo", "end in carriage returns alone"),
    ("a.txt", b"one\ncaf\xe9\n", "row 2 of .* is not UTF-8 text"),
    ("a.txt", b"one\0\n", "row 1 of .* has a NUL byte at character 3"),
    *[(f"a.{kind}", U16, "is not UTF-8 text but UTF-16: convert") for kind in ("txt", "csv", "json", "jsonl")],
    *[(f"a.{kind}", U32, "is not UTF-8 text but UTF-32: convert") for kind in ("txt", "csv", "json", "jsonl")],
    ("a.csv", gzip.compress(b"text\none\n", mtime=0), "is compressed with gzip: unpack it"),
    ("a.jsonl", bz2.compress(b'"one"'), "is compressed with bzip2"),
    ("a.txt", lzma.compress(b"one"), "is compressed with xz"),
    ("a.csv", b"PK\x03\x04\x14\0", "is a zip archive"),
    ("a.jsonl.gz", gzip.compress(b'"one"', mtime=0), "ends in .gz: unpack it"),
    ("a.jsonl", '[{"text": "one"}]\n[{"text": "two"}]\n', "behind row 1: more behind .*: give one list, or one object"),
    ("a.jsonl", '{"text": "one", "score": -Infinity}\n', "row 1 of .* .-Infinity, which JSON has no word for"),
    ("a.jsonl", '{"text": "one", "score": 1e999}\n', "row 1 of .* .the number 1e999, which is too large"),
    ("a.jsonl", '{"text": "one", "n": ' + "9" * 5000 + "}\n", "row 1 of .* .a number of 5000 digits"),
    ("a.jsonl", '{"text": "one", "text": "two"}\n', "row 1 of .* .the name 'text' twice in one object"),
    ("a.jsonl", '{"text": "one", "m": [{"x": 1, "x": 2}]}\n', "row 1 of .* .the name 'x' twice"),
    ("a.jsonl", '\n{"text": "one"}\n{"text": "tw', "row 2 of .* .line 3. is not valid JSON .Unterminated string"),
    ("a.jsonl", '{"text": "one"}\n{"text": "\\uDBFF?"}', "row 2 of .* .half a character, .udbff, at character 0"),
    ("a.jsonl", '{"text": "one", "\\udc00": 1}', "row 1 of .* .half a character, .udc00"),
    ("a.jsonl", '{"text": "one"} {"text": "two"}\n', "row 1 of .* .more behind its end, at column 17"),
    ("a.jsonl", "[" * 100_000, "is not valid JSON .behind row 0: nested too deeply"),
    ("a.jsonl", '{"text": ' + "[" * 100_000, "row 1 of .* .nested too deeply"),
    ("a.jsonl", b'{"text": "caf\xe9"}\n', "row 1 of .* is not UTF-8 text .the byte 0xe9"),
    ("a.jsonl", "5\n", "row 1 of .* is '5': an object"),
    ("a.json", '{\n  "text": "one"\n}\n', "row 1 of .* .it breaks off at column 1.: give one object a line"),
    ("a.json", '[{"text": "one"}, {"text": "two"', "is not valid JSON .behind row 1: it breaks off"),
    ("a.json", '[{"text": "one"}, {"text": "t", "text": "u"}]', "row 2 of .* .the name 'text' twice"),
    ("a.json", '[{"text": "one"}]["two"]', "more behind the list's end"),
    ("a.json", '[{"text": "one"}, null]', "row 2 of .* is 'None': an object"),
    ("a.tsv", "text\tn\none\t1\n", "ends in .tsv: texts are read from .txt, .jsonl, .json, .csv, .parquet"),
    ("a.parquet", b"PAR1", "can't be read as .parquet"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), REFUSED)
def test_what_can_not_be_read_is_refused_by_every_verb(
    name: str, content: str | bytes, words: str, tmp_path: Path
) -> None:
    path = written(tmp_path / name, content)
    for read in VERBS.values():
        with pytest.raises(InputError, match=words):
            read(path)


def test_a_header_that_ends_in_commas_names_nothing_there(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,n,,\none,1,,\ntwo,2\nthree,3,\n")
    assert [row.values for row in read_rows(path)] == [
        {"text": "one", "n": "1"},
        {"text": "two", "n": "2"},
        {"text": "three", "n": "3"},
    ]
    with pytest.raises(InputError, match=r"row 1 of .* has 1 columns, the header 4"):
        read_texts(written(path, "text,n,,\none\n"))


def test_nan_in_json_is_a_missing_value_as_in_parquet(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json"):
        rows = '{"text": "one", "score": NaN}', '{"text": NaN, "score": 1.0}'
        path = written(tmp_path / name, "\n".join(rows) if name == "a.jsonl" else f"[{', '.join(rows)}]")
        assert [row.values for row in read_rows(path)] == [
            {"text": "one", "score": None},
            {"text": None, "score": 1.0},
        ]
        assert read_texts(path) == ["one"]
    with pytest.raises(InputError, match="has spans"):
        read_posts(written(path, '{"text": "one", "spans": [0, NaN]}'), known=True)


def test_a_folder_a_missing_file_and_a_text_in_the_place_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    for read in VERBS.values():
        with pytest.raises(InputError, match="is a folder"):
            read(tmp_path / "a.csv")
        for name in ("none.csv", "a whole text " * 100):
            with pytest.raises(InputError, match="there is no file"):
                read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("a.csv", "x, y,1\n", "one,1\n"),
        ("a.csv", '"x"y,1\n', "one,1\n"),
        ("a.jsonl", '{"text": "x", "n": Infinity}\n', '{"text": "one"}\n'),
        ("a.jsonl", '{"text": "\\ud800"}\n', '{"text": "one"}\n'),
        ("a.json", '{"text": "x", "text": "y"},', '{"text": "one"},'),
    ],
)
def test_a_bad_row_is_left_out_on_request_and_the_others_keep_their_numbers(
    name: str, bad: str, good: str, tmp_path: Path
) -> None:
    rows = good + bad + good
    content = "text,n\n" + rows if name == "a.csv" else f"[{rows.strip(',')}]" if name == "a.json" else rows
    path = written(tmp_path / name, content)
    posts, prompts = read_posts(path, skip_bad=True), audited.read_prompts(str(path), skip_bad=True)
    assert [post.row for post in posts.posts] == [1, 3]
    assert (prompts.texts, prompts.rows) == (("one", "one"), (0, 2))
    for bad_rows in (posts.bad, prompts.bad):
        assert len(bad_rows) == 1
        assert bad_rows[0].startswith("row 2 of ")


def test_every_row_must_have_the_column_of_the_first(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "one"}\n{"content": "two"}\n')
    with pytest.raises(InputError, match=r"row 2 of .* has content and no text, as the first has"):
        read_texts(path)
    assert read_texts(written(path, '{"text": "one"}\n{"text": null}\n')) == ["one"]


def test_conversations_are_no_texts(tmp_path: Path) -> None:
    """Their id is the only column of text, but no text."""
    row = {"id": "identity_0", "conversations": [{"from": "human", "value": "Hi"}]}
    for given_row in (row, row | {"conversations": []}):
        path = written(tmp_path / "a.json", json.dumps([given_row]))
        with pytest.raises(InputError, match="has the columns id, conversations"):
            read_texts(path)
        assert rows_of(path, 1) == [given_row]
    assert read_texts(written(path, json.dumps([{"lyrics": "La.", "tags": ["a"]}]))) == ["La."], "one text is"


@pytest.mark.parametrize(
    "row",
    [
        {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
        {"filename": "0-a.txt", "prompt": {"text": "Once"}, "continuation": {"text": "more"}},
        {"guid": 1, "sentence_id": "s1", "label": 0},
        {"url": "http://a", "label": 1},
        {"split": "train", "tokens": ["a", "b"], "tags": [0, 1]},
    ],
)
def test_names_of_rows_are_no_texts(tmp_path: Path, row: dict[str, Any]) -> None:
    path = written(tmp_path / "a.json", json.dumps([row]))
    with pytest.raises(InputError, match="it is not clear which holds the text"):
        read_texts(path)


def test_a_text_that_is_missing_in_the_first_row_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"title": "One", "body": None}, {"title": "Two", "body": "It was."}]
    with pytest.raises(InputError, match="it is not clear which holds the text"):
        read_texts(written(tmp_path / "a.json", json.dumps(rows)))
    assert read_texts(written(tmp_path / "a.json", '[{"body": "It was.", "tokens": 3}]')) == ["It was."]
    rows = [{"n": 1, "content": None}, {"n": 2, "content": "It was."}]
    assert read_texts(written(tmp_path / "a.json", json.dumps(rows))) == ["It was."]


def test_alpacas_rows_keep_what_llama_factory_has_beside_them(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "1, 2", "output": "3", "id": 7, "lang": None}
    path = tmp_path / "a.json"
    blank = row | {"history": [], "system": "", "system_prompt": None}
    plain, same = read_texts(written(path, json.dumps([row, blank])))
    assert plain == same
    for name in ("system", "system_prompt"):
        (text,) = read_texts(written(path, json.dumps([row | {name: "Be short."}])))
        assert text == "Be short.\n\n### Instruction" + plain.split("### Instruction")[1]
    with pytest.raises(InputError, match=r"row 2 of .* has a history beside its instruction"):
        read_texts(written(path, json.dumps([row, row | {"history": [["a", "b"]]}])))


def test_names_in_a_sentence_stay_on_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", '"a\nb","c\x1b[0m"\n1,2\n')
    for read in (read_texts, read_posts):
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(caught.value).isprintable()


# Whatever is written comes back, and whatever is given is read or refused ---------------------------------------------

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
cells = st.text(characters, max_size=8)


@QUICK
@given(rows=st.lists(st.tuples(cells, cells), max_size=6), end=st.sampled_from(["\n", "\r\n"]))
@example(rows=[("\r", "\n"), ("\u2028", '"'), ("", "")], end="\n")
def test_what_the_csv_library_writes_comes_back(tmp_path: Path, rows: list[tuple[str, str]], end: str) -> None:
    made = io.StringIO(newline="")
    csv.writer(made, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    limit = csv.field_size_limit()
    found = [row.checked() for row in read_rows(written(tmp_path / "a.csv", made.getvalue()))]
    assert [(row["a"], row["b"]) for row in found] == rows
    assert csv.field_size_limit() == limit


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | cells,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3),
    max_leaves=6,
)


@QUICK
@given(rows=st.lists(st.dictionaries(cells, values, max_size=3), min_size=1, max_size=4), plain=st.booleans())
def test_what_the_json_library_writes_comes_back(tmp_path: Path, rows: list[dict[str, Any]], plain: bool) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=plain) + "\n" for row in rows)
    for name, content in (("a.jsonl", lines), ("a.json", json.dumps(rows, ensure_ascii=plain, indent=plain or None))):
        assert [row.checked() for row in read_rows(written(tmp_path / name, content))] == rows
    assert parse_json(json.dumps(rows)) == rows


@QUICK
@given(lines=st.lists(st.text(characters.filter(lambda each: each not in "\r\n"), max_size=8), max_size=5))
def test_lines_come_back(tmp_path: Path, lines: list[str]) -> None:
    path = written(tmp_path / "a.txt", "\ufeff" + "".join(line + "\n" for line in lines))
    assert [row.checked()["text"] for row in read_rows(path)] == lines


EVERY: list[Callable[[Path], object]] = [
    *VERBS.values(),
    lambda path: read_posts(path, known=True, skip_bad=True),
    lambda path: audited.read_prompts(str(path), skip_bad=True),
    lambda path: read_responses(str(path)),
    lambda path: read_preferences(str(path)),
    lambda path: read_predictions(path, skip_bad=True),
    read_questions,
]
pieces = st.sampled_from(
    [
        *(
            b'"',
            b",",
            b"\n",
            b"\r",
            b"{",
            b"}",
            b"[",
            b"]",
            b":",
            b"text",
            b'"text": ',
            b"\\ud800",
            b"\xff",
            b"\0",
            b"1",
        ),
        *(b"\xef\xbb\xbf", b"\xe2\x80\xa8", b'{"text": "a", "spans": [', b'"spans"', b"prompt", b"null", b"NaN"),
    ]
)


@pytest.mark.parametrize("ending", [*READERS, ".conll", ".zip"])
@QUICK
@given(content=st.lists(pieces | st.binary(max_size=4), max_size=24).map(b"".join))
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path: Path, ending: str, content: bytes) -> None:
    path = written(tmp_path / f"a{ending}", content)
    for read in EVERY:
        told = "fine"
        try:
            read(path)
        except InputError as error:
            told = str(error)
        assert told
        assert "\n" not in told
