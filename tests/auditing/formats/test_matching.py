"""Predictions and posts belong together by their ids, whatever order they stand in, and are of the same texts."""

import json
from pathlib import Path
from typing import Any

import pytest

from remodeler.auditing.formats.matching import match_predictions
from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.formats.predictions import Prediction, read_predictions
from remodeler.auditing.prediction_files import convert, score
from remodeler.auditing.prompts import read_texts
from remodeler.auditing.spans import Span
from remodeler.auditing.tagger.predict_job import vote
from remodeler.errors import InputError

SHUFFLED = [{"id": 1, "text": "a moron", "spans": [[2, 7]]}, {"id": 0, "text": "a nice day", "spans": []}]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_other_posts_than_those_of_the_gold_file_are_refused() -> None:
    gold = [Prediction(0, ()), Prediction(1, ())]
    path = Path("p.txt")
    assert match_predictions(path, [Prediction(1, (Span(0, 1),)), Prediction(0, ())], gold) == [[], [Span(0, 1)]]
    with pytest.raises(InputError, match=r"p\.txt has 1 post, the gold file 2"):
        match_predictions(path, gold[:1], gold)
    with pytest.raises(InputError, match="id 1 is in one of them only"):
        match_predictions(path, [gold[0], Prediction(5, ())], gold)


@pytest.mark.parametrize("name", ["gold.jsonl", "gold.json"])
def test_the_id_of_a_row_is_that_of_its_post_to_every_verb(name: str, tmp_path: Path) -> None:
    gold = written(tmp_path / name, SHUFFLED)
    assert [post.id for post in read_posts(gold).posts] == [row.id for row in read_predictions(gold).rows] == [1, 0]
    (tmp_path / "p.txt").write_text("0\t[]\n1\t[2, 3, 4, 5, 6]\n")
    assert score(tmp_path / "p.txt", gold)["all posts"].f1 == 1
    assert read_texts(gold).rows == (0, 1)  # where they stand in the file


@pytest.mark.parametrize("ids", [["a", "b"], [5, 5], [-3, 2], [1.5, 2], [None, None], [True, False]])
def test_ids_that_tell_no_posts_apart_leave_the_rows_their_numbers(ids: list[Any], tmp_path: Path) -> None:
    rows = [row | {"id": each} for row, each in zip(SHUFFLED, ids, strict=True)]
    assert [post.id for post in read_posts(written(tmp_path / "a.jsonl", rows)).posts] == [0, 1]


def test_the_column_id_of_a_table_is_anybodys(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,spans,text\n7,[],one\n3,[0],two\n")
    assert [row.id for row in read_predictions(tmp_path / "a.csv").rows] == [0, 1]


def test_a_null_id_is_none(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [row | {"id": None} for row in SHUFFLED])
    assert [row.id for row in read_predictions(path).rows] == [0, 1]


def test_predictions_of_other_texts_are_refused(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", SHUFFLED)
    two = written(tmp_path / "two.jsonl", [row | {"text": f"{row['text']}!"} for row in SHUFFLED])
    words = r"one\.jsonl has 'a moron' with the id 1, where 'a moron!' was expected"
    with pytest.raises(InputError, match=words):
        score(one, two)
    with pytest.raises(InputError, match=words):
        convert(one, tmp_path / "out.csv", texts=two)
    with pytest.raises(InputError, match=words):
        vote([two, one], out=tmp_path / "out.jsonl")
    convert(one, tmp_path / "same.csv", texts=one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "same.csv", "two.jsonl"]


def test_a_submission_of_longer_texts_gets_no_others(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("0\t[70]\n1\t[]\n")
    gold = written(tmp_path / "gold.jsonl", SHUFFLED)
    with pytest.raises(InputError, match=r"the post with the id 0 of .* has offsets 70 to 70 outside its text of 10"):
        convert(tmp_path / "p.txt", tmp_path / "out.jsonl", texts=gold)
    assert not (tmp_path / "out.jsonl").exists()


def test_likelihoods_that_are_no_shares_are_refused(tmp_path: Path) -> None:
    for value in (None, 1.5, -0.1, "x"):
        path = written(tmp_path / "a.jsonl", [{"text": "abc", "spans": [], "likely": [[3, value]]}])
        with pytest.raises(
            InputError, match=r"row 1 of .* is not a prediction.*leave such rows out with `skip_bad=True`"
        ):
            read_predictions(path)
