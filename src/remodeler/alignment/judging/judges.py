"""Win rates: AlpacaEval's and MT-Bench's files read and written, and their arithmetic; no paid service is needed.

AlpacaEval (v2) keeps a preference from 1 (the baseline wins) to 2 (the model wins); 1.5 and 0 are draws. Its win rate
is 100 times the mean of preference - 1, its standard error that of the mean. Judges favour length, so mean lengths
stand beside it; the length-controlled rate needs a file from the hub and is left to the official tool. MT-Bench's
ratings are read from the judge's text; a text without one does not count, as there.

A judge is any function (prompt, first, second) -> float, above 0 where the first is better. ``JUDGES`` makes one of a
local model: it prefers the answer with the higher mean log-probability per token.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from remodeler.alignment.data.examples import answer_row
from remodeler.alignment.reviser.reviser import Judge, Reviser, label_probabilities, quality
from remodeler.alignment.reviser.scoring import mean_logprobs
from remodeler.checkpoint.load import Checkpoint
from remodeler.data.chat import BadRow, text_of
from remodeler.data.conversations import as_prompt
from remodeler.data.prompts import instruction_of
from remodeler.data.rows import json_rows
from remodeler.errors import InputError
from remodeler.runs.records import to_json, write_json, write_text

DRAW = 1.5
RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
"""Patterns of an MT-Bench judge's rating, in the order in which they are tried."""


@dataclass(frozen=True)
class WinRate:
    """Win rate of a model against a baseline, in percent."""

    value: float
    error: float
    """Standard error; 0 for a single comparison."""
    comparisons: int
    characters: float
    """Mean length of the model's answers."""
    baseline_characters: float


# AlpacaEval -----------------------------------------------------------------------------------------------------------


def win_rate(preferences: Sequence[float]) -> tuple[float, float]:
    """Percent and standard error of preferences from 1 to 2.

    Raises:
        InputError: without preferences, or for one out of range.
    """
    found: list[float] = [DRAW if each == 0 else each for each in preferences]
    if not found or not all(1 <= each <= 2 for each in found):
        raise InputError("preferences from 1 (the baseline wins) to 2 (the model wins) were expected: check the file")
    error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else 0.0
    return 100 * fmean(each - 1 for each in found), 100 * error


def annotated_win_rate(path: Path) -> WinRate:
    """The win rate of an AlpacaEval file of annotations; rows that were not judged don't count.

    Raises:
        InputError: for a file without annotations.
    """
    rows = [(number, row) for number, row in enumerate(_rows(path), 1) if row.get("preference") is not None]
    if not rows:
        raise InputError(f"{path} holds no preference: AlpacaEval's output_1, output_2 and preference were expected")
    found = [_annotation(f"row {number} of {path}", row) for number, row in rows]
    value, error = win_rate([each[0] for each in found])
    return WinRate(value, error, len(rows), fmean(each[1] for each in found), fmean(each[2] for each in found))


def _annotation(where: str, row: Mapping[str, Any]) -> tuple[float, int, int]:
    """A preference, and the lengths of the model's and the baseline's answer."""
    try:
        texts = [text_of(row.get(key)) for key in ("output_2", "output_1")]
        if isinstance(row["preference"], bool):
            raise ValueError("a preference that is not a number")
        return float(row["preference"]), len(texts[0]), len(texts[1])
    except (TypeError, ValueError):
        expected = "two texts, output_1 and output_2, and a number, preference, were expected"
        raise InputError(f"{where} is not an annotation: {expected}") from None


def read_outputs(path: Path) -> dict[str, str]:
    """Answers by instruction, of a file of AlpacaEval's model outputs.

    Raises:
        InputError: for a file without outputs.
    """
    found: dict[str, str] = {}
    for number, row in enumerate(_rows(path), 1):
        try:
            prompt, output = as_prompt(instruction_of(row)), text_of(row["output"])
        except (KeyError, BadRow) as reason:
            fault = f"row {number} of {path} holds no model output ({_lack(reason)})"
            raise InputError(f"{fault}: a list of instruction, output, generator was expected") from None
        if found.setdefault(prompt, output) != output:
            raise InputError(f"{path} has two answers to {prompt!r:.40}: leave one answer per instruction")
    if not found:
        raise InputError(f"{path} holds no model outputs: a list of instruction, output, generator was expected")
    return found


def _lack(reason: Exception) -> str:
    return f"no {reason.args[0]}" if isinstance(reason, KeyError) else str(reason)


def write_outputs(path: Path, answers: Sequence[tuple[str, str]], name: str) -> None:
    """Write answers as AlpacaEval's tool reads them: ``alpaca_eval --model_outputs PATH``."""
    write_json(path, [{"instruction": prompt, "output": text, "generator": name} for prompt, text in answers])


def compare_outputs(model: Mapping[str, str], baseline: Mapping[str, str], judge: Judge) -> tuple[WinRate, list[Any]]:
    """Judge the answers to the same instructions; the win rate, and annotations as AlpacaEval writes them.

    Raises:
        InputError: when no instruction is in both.
    """
    prompts = [each for each in model if each in baseline]
    if not prompts:
        raise InputError("the two files answer no instruction in common: give outputs of the same prompts")
    preferences = [_preference(judge(each, model[each], baseline[each])) for each in prompts]
    rows = [
        {"instruction": each, "output_1": baseline[each], "output_2": model[each], "preference": preference}
        for each, preference in zip(prompts, preferences, strict=True)
    ]
    value, error = win_rate(preferences)
    lengths = (fmean(len(side[each]) for each in prompts) for side in (model, baseline))
    return WinRate(value, error, len(rows), *lengths), rows


def _preference(gap: float) -> float:
    return DRAW if gap == 0 else 2.0 if gap > 0 else 1.0


def _rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON."""
    return [row.checked() for row in json_rows(path)]


# MT-Bench -------------------------------------------------------------------------------------------------------------


def read_questions(path: Path) -> list[dict[str, Any]]:
    """MT-Bench's questions: ``question_id`` and ``turns``.

    Raises:
        InputError: for a file that holds others.
    """
    found = _rows(path)
    bad = next((number for number, row in enumerate(found, 1) if not _is_question(row)), None)
    if not found or bad is not None:
        fault = f"{path} holds no questions of MT-Bench" + (f" in row {bad}" if bad else "")
        raise InputError(f"{fault}: question_id, a whole number, and turns, a list of texts, were expected")
    if len({each["question_id"] for each in found}) < len(found):
        raise InputError(f"{path} has a question_id twice: give each question its own")
    return found


def _is_question(row: Any) -> bool:
    """A whole number, and texts."""
    if not isinstance(row, dict) or type(row.get("question_id")) is not int:
        return False
    turns = row.get("turns")
    return isinstance(turns, list) and bool(turns) and all(isinstance(each, str) and each for each in turns)


def write_answers(path: Path, answers: Mapping[int, Sequence[str]], name: str, stamp: float) -> None:
    """Write the turns of every question as FastChat's judge reads them.

    Args:
        path: the file of JSON lines.
        answers: by question id.
        name: of the model.
        stamp: seconds since 1970.
    """
    rows = [
        {
            "question_id": number,
            "answer_id": f"{name}-{number}",
            "model_id": name,
            "choices": [{"index": 0, "turns": list(turns)}],
            "tstamp": stamp,
        }
        for number, turns in answers.items()
    ]
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def rating(text: str) -> float | None:
    """The rating in what a judge wrote: ``[[7]]``, else ``[7]``; None without one."""
    found = next((match for pattern in RATINGS if (match := pattern.search(text))), None)
    return float(found.group(1)) if found else None


def mean_ratings(path: Path) -> dict[str, float]:
    """Mean rating of each model in a file of MT-Bench's single judgements, over both turns.

    Raises:
        InputError: for a file without a rating.
    """
    found: dict[str, list[float]] = {}
    for number, row in enumerate(_rows(path), 1):
        score = row.get("score")
        score = rating(str(row.get("judgment", ""))) if score is None else score
        if isinstance(score, bool) or not isinstance(score, int | float | None):
            raise InputError(f"line {number} of {path} has the score {score!r:.40}: a number was expected")
        if score is not None and score >= 0:  # -1 is FastChat's word for a text without a rating
            model = row.get("model", row.get("model_id"))
            if not isinstance(model, str):
                raise InputError(f"line {number} of {path} names no model that is rated: model was expected")
            found.setdefault(model, []).append(float(score))
    if not found:
        raise InputError(f"{path} holds no ratings of MT-Bench: score or judgment were expected")
    return {name: fmean(scores) for name, scores in found.items()}


# Judges ---------------------------------------------------------------------------------------------------------------


def likelihood_judge(model: Checkpoint, chat: bool = False) -> Judge:
    """Prefer the answer with the higher mean log-probability per token under a local model."""

    def judge(prompt: str, first: str, second: str) -> float:
        one, two = mean_logprobs(model, [answer_row(model, prompt, each, chat) for each in (first, second)])
        return one - two

    return judge


def quality_judge(reviser: Reviser) -> Judge:
    """Prefer the answer of higher quality by a reviser, which is not a fair judge of a policy that it guided."""

    def judge(prompt: str, first: str, second: str) -> float:
        one, two = label_probabilities(reviser, [(prompt, first), (prompt, second)])
        return quality(one.tolist()) - quality(two.tolist())

    return judge


JUDGES: dict[str, Callable[[Any], Judge]] = {"likelihood": likelihood_judge, "reviser": quality_judge}
