"""Facts about files of multiple-choice questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from remodeler.data.questions import Question, read_questions
from remodeler.errors import InputError

Row = dict[str, Any]

LACKS = "question {} .* lacks a choice or its answer"
ASK = "Please choose the correct answer to the question: "
FINISH = "Please choose the correct ending to complete the given sentence: "
FILL = "Please choose the correct answer to fill in the blank to complete the given sentence: "
SOLVE = "Please choose the correct solution to the question: "
JUDGE = "Please answer the following question with true or false, question: "
SKY = Question("Question: What colour is the sky?\nAnswer:", ["red", "blue", "as green as grass"], 1)
DOOR = Question("Question: open a door\nAnswer:", ["push it", "paint it"], 0)
TREE = Question("", ["The tree fell on the car as the tree", "The tree fell on the car as the car"], 0, "was old.")
RAIN = Question("Weather: It rains. She", ["opens her umbrella.", "eats the moon."], 0)
SNOW = Question("Question: is snow white?\nAnswer:", ["no", "yes"], 1)


def adapters(head: str, question: str, options: str, answer: str) -> Row:
    instruction = f"{head}{question}\n\n{options}\n\nAnswer format: {answer}/..."
    return {"instruction": instruction, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


COLOUR, CAUSE = "What colour is the sky?", "The tree fell on the car as the _ was old."
FORMS: dict[str, tuple[Row, Question]] = {
    "query and gold": ({"query": f"Question: {COLOUR}", "choices": SKY.choices, "gold": 1}, SKY),
    "question and letter": ({"question": COLOUR, "choices": SKY.choices, "answer": "B"}, SKY),
    "question and text": ({"question": COLOUR, "choices": SKY.choices, "answer": "blue"}, SKY),
    "context and label": (
        {"context": "The sky is ", "endings": [" blue", " red"], "label": "0"},
        Question("The sky is", ["blue", "red"], 0),
    ),
    "ARC": (
        {"question": COLOUR, "choices": {"text": SKY.choices, "label": ["1", "2", "3"]}, "answerKey": "2"},
        SKY,
    ),
    "LLM-Adapters ARC": (
        adapters(ASK, COLOUR, "Answer1: red Answer2: blue Answer3: as green as grass", "answer2"),
        SKY,
    ),
    "PIQA": ({"goal": "open a door", "sol1": "push it", "sol2": "paint it", "label": 0}, DOOR),
    "LLM-Adapters PIQA": (
        adapters(SOLVE, "open a door", "Solution1: push it\nSolution2: paint it", "solution1"),
        DOOR,
    ),
    "WinoGrande": ({"sentence": CAUSE, "option1": "tree", "option2": "car", "answer": "1"}, TREE),
    "WinoGrande contexts": ({"context_options": TREE.choices, "continuation": "was old.", "gold": 0}, TREE),
    "LLM-Adapters WinoGrande": (adapters(FILL, CAUSE, "Option1: tree Option2: car", "option1"), TREE),
    "HellaSwag": (
        {"activity_label": "Weather", "ctx_a": "It rains.", "ctx_b": "she", "ctx": "", "endings": RAIN.choices}
        | {"label": "0"},
        RAIN,
    ),
    "LLM-Adapters HellaSwag": (
        adapters(FINISH, "Weather: It rains. She", "Ending1: opens her umbrella. Ending2: eats the moon.", "ending1"),
        RAIN,
    ),
    "BoolQ": (
        {"passage": "Snow is ice.", "question": "is snow white", "answer": True},
        Question("Snow is ice.\nQuestion: is snow white?\nAnswer:", ["no", "yes"], 1),
    ),
    "a question about a text": (
        {"passage": "Red is warm.", "context": None, "question": COLOUR, "choices": SKY.choices, "answer": 1},
        Question(f"Red is warm.\n{SKY.prompt}", SKY.choices, 1),
    ),
    "a question about a context": (
        {"question": COLOUR, "context": "Red is warm.", "choices": SKY.choices, "label": 1, "answer": "blue"},
        Question(f"Red is warm.\n{SKY.prompt}", SKY.choices, 1),
    ),
    "a list and a letter": ({"question": COLOUR, "choices": SKY.choices, "answerKey": "B"}, SKY),
    "LLM-Adapters BoolQ": (adapters(JUDGE, "is snow white?", "", "true"), SNOW),
}


def written(path: Path, *rows: Any) -> Path:
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_asked_in_the_words_of_lm_eval(tmp_path: Path, form: str, suffix: str) -> None:
    row, question = FORMS[form]
    assert read_questions(written(tmp_path / f"file{suffix}", row, row)) == [question, question]


def test_piqa_finds_its_labels_beside_it(tmp_path: Path) -> None:
    rows = [{"goal": "open a door", "sol1": "push it", "sol2": "paint it"}] * 2
    path = written(tmp_path / "valid.jsonl", *rows)
    (tmp_path / "valid-labels.lst").write_text("0\n1\n")
    assert [question.gold for question in read_questions(path)] == [0, 1]
    (tmp_path / "valid-labels.lst").write_text("0\n")
    with pytest.raises(InputError, match="1 labels for 2 questions"):
        read_questions(path)


def test_hellaswag_is_cleaned_as_lm_eval_does(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    harness = pytest.importorskip("lm_eval.tasks.hellaswag.utils")
    row: Row = {"activity_label": "Home  and Garden", "ctx_b": "then you"}
    row |= {"ctx_a": "How to sleep [header] Lie down. [title] Close your eyes."}
    row |= {"endings": ["[substeps] Count  sheep. [title] Slowly.", " snore [step] loudly. "], "label": "1"}
    (expected,) = harness.process_docs(datasets.Dataset.from_list([row]))
    (question,) = read_questions(written(tmp_path / "file.json", row | {"ctx": ""}))
    assert question == Question(expected["query"], expected["choices"], expected["gold"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no questions"),
        ("[]", "holds no questions"),
        ('"text"', "has rows with text: give one"),
        ("{", "row 1 of .* is not valid JSON .it breaks off at column 2"),
        ('{"text": "once"}', "has rows with text: give one of these forms"),
        ('{"query": "?", "choices": ["a", "b"], "gold": 2}', LACKS.format(1)),
        ('{"query": "?", "choices": ["a", "b"], "gold": -1}', LACKS.format(1)),
        ('{"query": "?", "choices": ["a", ""], "gold": 0}', LACKS.format(1)),
        ('{"query": "?", "choices": ["a", "b"], "gold": 0}\n{"query": "?"}', LACKS.format(2)),
        ('{"query": "?", "choices": ["a", "b"], "gold": ""}', LACKS.format(1)),
        ('{"query": "?", "choices": ["a", "b"], "gold": 0}\n7', "row 2 of .* is '7': an object"),
        ('{"instruction": "Write a poem.", "answer": "No."}', LACKS.format(1)),
        ('{"question": null, "choices": ["a", "b"], "gold": 0}', "'None' where a text was expected"),
        ('{"query": "?", "choices": "ab", "gold": 0}', "'ab' where a list of texts was expected"),
        ('{"query": "?", "choices": [1, 2], "gold": 0}', "where a list of texts was expected"),
        ('{"query": "?", "choices": ["a", "b"], "gold": 0.5}', "0.5 where a whole number was expected"),
        ('{"goal": "?", "sol1": "a", "sol2": 7, "label": 0}', "'7' where a text was expected"),
        ('{"question": "?", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}', "of 2 choices"),
        ('{"sentence": "No blank.", "option1": "a", "option2": "b", "answer": "1"}', "a sentence without a blank"),
        ('{"query": "?", "choices": ["a", "b"], "gold": 0, "gold": 1}', "the name 'gold' twice"),
        ('{"query": "?", "choices": ["a", "b"], "label": 0, "answer": "b"}', "label and answer name different choices"),
        ('{"query": "?", "choices": ["a", "b"], "gold": null}', "'None' where a whole number was expected"),
        ('{"passage": "P.", "question": "?", "answer": "false"}', "'false' where a whole number was expected"),
        ('{"question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}', "answer 'C' of"),
        ('{"instruction": "Write: a poem.", "answer": "No."}', "as LLM-Adapters write them"),
        ('{"instruction": null, "answer": "answer1"}', "'None' where a text was expected"),
    ],
)
def test_what_is_no_question_is_refused_in_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "file.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / "file.jsonl")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_questions(tmp_path / "none.jsonl")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("winogrande/winogrande_test.json", "winogrande/winogrande_lm.jsonl", 1.0),
        # The second file is wrong where ARC numbers its choices: its answer is one too far.
        ("arc/arc_easy_test.json", "arc/arc_easy_lm.jsonl", 0.96),
    ],
)
def test_two_forms_of_one_benchmark_give_the_same_questions(
    shared: Path, first: str, second: str, alike: float
) -> None:
    ours, theirs = (read_questions(shared / "data" / name) for name in (first, second))
    assert len(ours) == len(theirs)
    assert sum(map(Question.__eq__, ours, theirs)) >= alike * len(ours)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["piqa/valid.jsonl", "hellaswag/hellaswag_val_1000.jsonl", "boolq/boolq_test.json"])
def test_real_files_are_read_to_the_last_question(shared: Path, name: str) -> None:
    questions = read_questions(shared / "data" / name)
    golds = [question.gold for question in questions]
    assert len(questions) >= 1000
    assert set(golds) == set(range(len(questions[0].choices)))
