"""Judging: win rates in closed form and of a real file, files that other tools read, local judges."""

import json
from pathlib import Path
from typing import Any

import pytest

from commands import invoke
from remodeler.alignment.data.template import MAJOR, MINOR, NONE, Template
from remodeler.alignment.judging.config import JUDGES as NAMES
from remodeler.alignment.judging.job import answer, judge
from remodeler.alignment.judging.judges import (
    JUDGES,
    annotated_win_rate,
    compare_outputs,
    likelihood_judge,
    mean_ratings,
    quality_judge,
    rating,
    read_outputs,
    read_questions,
    win_rate,
    write_answers,
)
from remodeler.alignment.reviser.reviser import make_reviser
from remodeler.checkpoint.load import load
from remodeler.errors import InputError
from remodeler.runs.records import read_json, read_lines
from tiny import tiny_checkpoint

SHORT = Template("Fix.", "\nP:", "\nR:", "\nV:", {NONE: "NONE", MINOR: "MINOR", MAJOR: "MAJOR"})


def test_the_options_name_the_judges_of_the_table() -> None:
    assert list(JUDGES) == list(NAMES)


def test_win_rate_and_its_error_in_closed_form() -> None:
    value, error = win_rate([1.0, 2.0, 2.0, 1.5, 0])
    assert value == pytest.approx(100 * (0 + 1 + 1 + 0.5 + 0.5) / 5)
    assert error == pytest.approx(100 * (0.7 / 4) ** 0.5 / 5**0.5)
    assert win_rate([2.0]) == (100.0, 0.0)


@pytest.mark.parametrize("bad", [[], [0.5], [2.5], [1.0, float("nan")]])
def test_preferences_out_of_range_are_refused(bad: list[float]) -> None:
    with pytest.raises(InputError, match="preferences from 1"):
        win_rate(bad)


@pytest.mark.shared
def test_the_rate_of_the_leaderboard_comes_out(shared: Path) -> None:
    found = annotated_win_rate(shared / "data" / "alpaca_eval" / "alpaca-7b_weighted_annotations.json")
    assert found.value == pytest.approx(2.591450540223603, rel=1e-12)
    assert found.error == pytest.approx(0.4870855382635108, rel=1e-12)
    assert found.comparisons == 805
    assert found.characters < found.baseline_characters


@pytest.mark.shared
def test_real_outputs_and_questions_are_read(shared: Path) -> None:
    found = read_outputs(shared / "data" / "alpaca_eval" / "alpaca-7b_model_outputs.json")
    better = read_outputs(shared / "data" / "alpaca_eval" / "gpt4_1106_preview_model_outputs.json")
    rate, rows = compare_outputs(found, better, lambda prompt, first, second: len(first) - len(second))
    assert len(rows) == rate.comparisons > 780
    assert rate.value < 10, "the longer answers are the baseline's"
    assert len(read_questions(shared / "data" / "mt_bench" / "question.jsonl")) == 80


def test_swapping_the_sides_swaps_the_rate(tmp_path: Path) -> None:
    one, two = {"a": "xxx", "b": "x", "c": "x"}, {"a": "x", "b": "xx", "c": "x", "d": "only here"}
    rate, rows = compare_outputs(one, two, lambda prompt, first, second: len(first) - len(second))
    back, _ = compare_outputs(two, one, lambda prompt, first, second: len(first) - len(second))
    assert [row["preference"] for row in rows] == [2.0, 1.0, 1.5]
    assert rate.value == pytest.approx(100 - back.value)
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    assert annotated_win_rate(tmp_path / "annotations.json") == rate
    with pytest.raises(InputError, match="no instruction in common"):
        compare_outputs({"a": "x"}, {"b": "x"}, lambda *texts: 0.0)


@pytest.mark.parametrize(
    ("text", "score"), [("so [[7]]", 7), ("[[8.5]] or [3]", 8.5), ("rated [6]", 6), ("no rating", None)]
)
def test_ratings_are_read_from_what_a_judge_wrote(text: str, score: float | None) -> None:
    assert rating(text) == score


def test_mt_bench_means_leave_out_what_has_no_rating(tmp_path: Path) -> None:
    rows = [{"model": "m", "score": 8}, {"model": "m", "score": -1}, {"model": "m", "judgment": "[[6]]"}]
    rows.append({"model": "n", "judgment": "none"})
    path = tmp_path / "judgments.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert mean_ratings(path) == {"m": 7.0}
    write_answers(tmp_path / "answers.jsonl", {81: ["one", "two"]}, "m", 1.0)
    row = read_lines(tmp_path / "answers.jsonl")[0]
    assert set(row) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert row["choices"] == [{"index": 0, "turns": ["one", "two"]}]


def test_local_judges_are_antisymmetric_and_prefer_what_they_hold_likelier() -> None:
    model = tiny_checkpoint("llama", max_position_embeddings=256)
    for prefer in (likelihood_judge(model), quality_judge(make_reviser(model, SHORT))):
        first, second = prefer("the cat", " sat on the mat", " zq"), prefer("the cat", " zq", " sat on the mat")
        assert first == pytest.approx(-second)
        assert first != 0


JUDGED = '{"output_1": "a", "output_2": "b", "preference": %s}'


@pytest.mark.parametrize(
    ("name", "told", "words"),
    [
        ("a.json", "{}", "a.json holds no preference"),
        ("a.json", '[{"preference": 1.5}]', "row 1 of .* is not an annotation"),
        (
            "a.json",
            f"[{JUDGED % 1}, {JUDGED % 'true'}]",
            "row 2 of .* is not an annotation",
        ),
        ("a.json", f"[{JUDGED % 1}]".replace('"a"', "null"), "row 1 of .* is not an annotation"),
        ("a.jsonl", '{"score": 3}\n', "line 1 of .* names no model"),
        ("a.jsonl", '{"model": "m"}\n', "no ratings of MT-Bench"),
    ],
)
def test_files_that_are_refused(name: str, told: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(told)
    with pytest.raises(InputError, match=words):
        judge(tmp_path / name)


def test_outputs_keep_what_an_instruction_is_about_and_name_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    rows = [{"instruction": "Add.", "input": each, "output": "3"} for each in ("1, 2", "0, 3", "")]
    path.write_text(json.dumps(rows))
    assert [*read_outputs(path)] == ["Add.\n1, 2", "Add.\n0, 3", "Add."]
    for bad, reason in (
        ({"output": None}, "no text"),
        ({"instruction": 5}, "a number where"),
        ({"output": 5}, "a number"),
    ):
        path.write_text(json.dumps([rows[0], rows[1] | bad]))
        with pytest.raises(InputError, match=rf"row 2 of .* holds no model output .{reason}"):
            read_outputs(path)
    path.write_text('{"error": "x"}')
    with pytest.raises(InputError, match=r"row 1 of .* holds no model output .no instruction"):
        read_outputs(path)


@pytest.mark.parametrize("bad", [{"question_id": "82"}, {"turns": []}, {"turns": ["a", None]}, {}])
def test_a_question_that_is_none_is_named(bad: dict[str, Any], tmp_path: Path) -> None:
    good = {"question_id": 81, "turns": ["the cat"]}
    second = good | {"question_id": 82} | bad if bad else {"turns": ["a"]}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, second)))
    with pytest.raises(InputError, match="no questions of MT-Bench in row 2"):
        read_questions(tmp_path / "a.jsonl")


def test_answers_are_written_for_both_judges_and_judged_here(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"instruction": "the cat"}\n{"instruction": "the dog sat"}\n')
    (tmp_path / "questions.jsonl").write_text('{"question_id": 81, "turns": ["the cat", "on?"]}\n')
    how: dict[str, Any] = {"max_new_tokens": 4, "device": "cpu"}
    answers = answer(model, questions=tmp_path / "prompts.jsonl", out=tmp_path / "one.json", **how)
    assert len(answers) == 2
    rows = read_json(tmp_path / "one.json")
    assert [row["instruction"] for row in rows] == ["the cat", "the dog sat"]
    loaded, how["format"] = load(model, device="cpu"), "mt_bench"
    assert len(answer(loaded, questions=tmp_path / "questions.jsonl", out=tmp_path / "two.jsonl", **how)) == 1
    assert len(read_lines(tmp_path / "two.jsonl")[0]["choices"][0]["turns"]) == 2
    (tmp_path / "base.json").write_text(json.dumps([row | {"output": " mat"} for row in rows]))
    assert not list(tmp_path.glob("*.partial"))
    given = [
        "align",
        "judge",
        str(tmp_path / "one.json"),
        "--against",
        str(tmp_path / "base.json"),
        "--judge",
        str(model),
    ]
    found = invoke([*given, "--device", "cpu", "--out", str(tmp_path / "annotations.json")])
    assert found.exit_code == 0, found.output
    assert annotated_win_rate(tmp_path / "annotations.json").comparisons == 2
