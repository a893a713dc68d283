"""Multiple-choice questions from local files, asked in the words of lm-eval's own task for the benchmark.

Which form a file has is told by the keys of its first row: FORMS. Deviation: the BoolQ file of LLM-Adapters (arXiv
2304.01933) has no passages, so its questions are asked without; the figure is not that of lm-eval's ``boolq``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.data.lines import format_names, short, whole_text
from remodeler.data.rows import json_rows
from remodeler.errors import InputError

SUFFIXES = (".jsonl", ".json")
OPTION = re.compile(r"\s*\b(?:Answer|Option|Solution|Ending)\d+: ")  # of LLM-Adapters

CHOICES = ("choices", "endings")
ABOUT = ("passage", "context", "ctx")
"""What a question is about, where a row has that beside it."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """Which choice follows the prompt best; with an ``ending``, after which choice that ending fits best."""

    prompt: str
    choices: list[str]
    gold: int
    ending: str = ""


def read_questions(path: Path) -> list[Question]:
    """The questions of a file of JSON lines, or of one JSON list."""
    rows = _with_labels(path, _rows(path))
    convert = _form(path, rows[0])
    return [_question(path, number, row, convert) for number, row in enumerate(rows, 1)]


def _rows(path: Path) -> list[Row]:
    try:
        rows = [row.checked() for row in json_rows(path)]
    except InputError as error:
        raise InputError(f"{error}; questions are JSON lines, one JSON list, or the name of an lm-eval task") from None
    if not rows:
        raise InputError(f"{path} holds no questions: give JSON lines or one JSON list of objects")
    return rows


def _with_labels(path: Path, rows: list[Row]) -> list[Row]:
    """PIQA keeps its labels in a file beside its questions: ``valid-labels.lst`` beside ``valid.jsonl``."""
    beside = path.with_name(f"{path.stem}-labels.lst")
    if "label" in rows[0] or not beside.is_file():
        return rows
    labels = whole_text(beside).split()
    if len(labels) != len(rows):
        raise InputError(f"{beside} holds {len(labels)} labels for {len(rows)} questions: get both files again")
    return [row | {"label": label} for row, label in zip(rows, labels, strict=True)]


def _form(path: Path, row: Row) -> Callable[[Row], Question]:
    for needs, convert in FORMS:
        if all(any(key in row for key in need.split("|")) for need in needs.split()):
            return _choices if convert is _boolq and not row.keys().isdisjoint(CHOICES) else convert
    known = "; ".join(needs.replace(" ", ", ") for needs, _ in FORMS)
    raise InputError(f"{path} has rows with {format_names(row)}: give one of these forms: {known}")


def _question(path: Path, number: int, row: Row, convert: Callable[[Row], Question]) -> Question:
    try:
        question = convert(row)
        if len(question.choices) < 2 or not all(question.choices) or not 0 <= question.gold < len(question.choices):
            raise ValueError(f"choice {question.gold} of {question.choices}")
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"question {number} of {path} lacks a choice or its answer ({reason}): correct it") from None
    return question


# ---- one function a form ---------------------------------------------------------------------------------------------


def _choices(row: Row) -> Question:
    """Prompt, choices and answer of any benchmark; a query that starts ``Question:`` gets lm-eval's ``Answer:``."""
    choices = [choice.strip() for choice in _texts(_one_of(row, "choices|endings"))]
    prompt = f"Question: {_text(row, 'question')}" if "question" in row else _text(row, "query|ctx|context")
    ask = prompt.startswith("Question:") and "Answer:" not in prompt
    about = [_text(row, key).rstrip() for key in ABOUT if "question" in row and row.get(key) is not None]
    prompt = "\n".join([*filter(None, about), prompt.rstrip()])
    return Question(prompt + "\nAnswer:" * ask, choices, _agreed_answer(row, choices))


def _agreed_answer(row: Row, choices: list[str]) -> int:
    """The right choice; where a row says it more than once, all have to say the same."""
    named = {key: _gold(row[key], choices) for key in ("gold", "label", "answer") if row.get(key) is not None}
    if len({*named.values()}) > 1:
        raise ValueError(f"{' and '.join(named)} name different choices")
    return next(iter(named.values())) if named else _gold(_one_of(row, "gold|label|answer"), choices)


def _contexts(row: Row) -> Question:
    return Question("", _texts(row["context_options"]), _number(row["gold"]), _text(row, "continuation").strip())


def _winogrande(row: Row) -> Question:
    options = [_text(row, "option1"), _text(row, "option2")]
    return _blank(_text(row, "sentence"), options, _number(row["answer"]) - 1)


def _piqa(row: Row) -> Question:
    choices = [_text(row, "sol1"), _text(row, "sol2")]
    return Question(f"Question: {_text(row, 'goal')}\nAnswer:", choices, _number(row["label"]))


def _boolq(row: Row) -> Question:
    prompt = f"{_text(row, 'passage')}\nQuestion: {_text(row, 'question').rstrip('?')}?\nAnswer:"
    return Question(prompt, ["no", "yes"], _number(_one_of(row, "answer|label")))


def _arc(row: Row) -> Question:
    if not isinstance(row["choices"], dict):
        return _choices(row | {"answer": row["answerKey"]})
    choices, labels = _texts(row["choices"]["text"]), row["choices"]["label"]
    if not isinstance(labels, list) or len(labels) != len(choices) or len({*labels}) < len(labels):
        raise ValueError(f"the labels {labels} of {len(choices)} choices")
    labels, key = list(map(str, labels)), str(row["answerKey"])
    if key not in labels:
        raise ValueError(f"the answer {short(key)} of the labels {', '.join(labels)}")
    return Question(f"Question: {_text(row, 'question')}\nAnswer:", choices, labels.index(key))


def _hellaswag(row: Row) -> Question:
    parts = f"{_text(row, 'ctx_a')} {_text(row, 'ctx_b').capitalize()}" if "ctx_a" in row else _text(row, "ctx")
    titled = f"{_text(row, 'activity_label')}: {parts}" if "activity_label" in row else parts
    return Question(_plain(titled), [_plain(ending) for ending in _texts(row["endings"])], _number(row["label"]))


def _adapters(row: Row) -> Question:
    """LLM-Adapters: ``Please ...: QUESTION Answer1: ... Answer2: ... Answer format: ...``."""
    body = _text(row, "instruction").partition(": ")[2].partition("Answer format:")[0].strip()
    found = re.fullmatch(r"([a-z]+)(\d+)|true|false", _text(row, "answer"))
    if not body or not found:
        raise ValueError("no instruction and answer as LLM-Adapters write them")
    if row["answer"] in ("true", "false"):
        return Question(f"Question: {body.rstrip('?')}?\nAnswer:", ["no", "yes"], int(row["answer"] == "true"))
    question, *choices = OPTION.split(body)
    kind, gold = found.groups()
    if kind == "option":
        return _blank(question, choices, int(gold) - 1)
    prompt = question if kind == "ending" else f"Question: {question}\nAnswer:"
    return Question(prompt, choices, int(gold) - 1)


def _blank(sentence: str, options: list[str], gold: int) -> Question:
    """WinoGrande's partial evaluation: each option fills the blank, and the rest of the sentence is scored."""
    before, blank, after = sentence.partition("_")
    if not blank:
        raise ValueError("a sentence without a blank, _")
    return Question("", [before + option for option in options], gold, after.strip())


def _one_of(row: Row, keys: str) -> Any:
    return row[next((key for key in keys.split("|") if key in row), keys)]


def _text(row: Row, keys: str) -> str:
    """What the first of these keys says; None and numbers are no text."""
    value = _one_of(row, keys)
    if not isinstance(value, str):
        raise ValueError(f"{short(value)} where a text was expected")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{short(value)} where a list of texts was expected")
    return list(value)


def _number(value: Any) -> int:
    """A whole number, also in words of digits; true is 1."""
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value} where a whole number was expected")
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{short(value)} where a whole number was expected") from None


def _gold(answer: Any, choices: list[str]) -> int:
    """The right choice by its text, its number from 0, or its letter."""
    if isinstance(answer, str) and answer.strip() in choices:
        return choices.index(answer.strip())
    letter = isinstance(answer, str) and len(answer) == 1 and answer.isalpha()
    return ord(answer.upper()) - ord("A") if letter else _number(answer)


def _plain(text: str) -> str:
    """lm-eval's cleaning of HellaSwag: its WikiHow part has marks in brackets."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


FORMS: tuple[tuple[str, Callable[[Row], Question]], ...] = (  # keys a row has, "|" between those that mean the same
    ("context_options continuation gold", _contexts),
    ("sentence option1 option2 answer", _winogrande),
    ("instruction answer", _adapters),
    ("goal sol1 sol2 label", _piqa),
    ("passage question answer|label", _boolq),
    ("question choices answerKey", _arc),
    ("ctx endings label", _hellaswag),
    ("query|question|ctx|context choices|endings gold|label|answer", _choices),
)
