"""The shapes that preference data comes in, each as a function from a row to a prompt and answers in order.

A shape is a row of ``SHAPES``: the keys that tell it, and its reader. The first whose keys a row has is taken. A side
is an answer alone, or a conversation that ends in one; what stands before the answer has to be the same on both sides,
and has to be the row's prompt where it has one. Anything else is not a pair, and the reason is counted.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from remodeler.data.chat import (
    ASSISTANT,
    EMPTY_ANSWER,
    SPEAKERS,
    SYSTEM,
    USER,
    BadRow,
    Talk,
    Turn,
    is_talk,
    kind,
    messages_of,
    text_of,
    turns_of,
)
from remodeler.data.conversations import HISTORY, as_prompt, beginning_alike, history_of, question, with_system
from remodeler.data.prompts import ABOUT, instruction_of, prompt_of, prompt_turns, refuse_history

Row = Mapping[str, Any]
HUMAN, TURN = "\n\nHuman:", "\n\nAssistant:"
"""Where a question and an answer begin in the transcripts of HH-RLHF."""
SPEAKS = re.compile(r"(?:^|\n\n)(Human|Assistant):")
WHOLE = re.compile(r"\s*Human:.*\n\n(?:Human|Assistant):", re.DOTALL)
"""A transcript; the next one ends where an answer begins."""
OPEN = re.compile(r"\s*Human:.*\n\nAssistant:\s*\Z", re.DOTALL)
SCORES = tuple(
    (name.format("chosen"), name.format("rejected"))
    for name in ("score_{}", "{}_score", "{}_rating", "{}-rating", "{}_avg_rating")
)
"""Where a row says how good its sides are."""
ASKED = ("prompt", "conversations", "messages", "instruction", "question", "input")
"""Where a row with ``chosen`` and ``rejected`` has its prompt, in the order in which they are tried."""
EMPTY, BROKEN = "an empty side", "a row without a prompt and two texts"
ALIKE = "two conversations that do not begin alike"
OTHER = "an answer to another prompt than the row's"
REPEATS = "answers that begin with their prompt"


@dataclass(frozen=True)
class RankedAnswers:
    """A prompt with answers, and how good each is: higher is better."""

    prompt: str
    answers: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Side:
    """An answer, and what stands before it in the same value: nothing where it is an answer alone."""

    before: Talk
    answer: str


def _pair(prompt: str, better: str, worse: str, scores: tuple[float, float] = (math.inf, 0.0)) -> RankedAnswers:
    return RankedAnswers(prompt, ((better, scores[0]), (worse, scores[1])))


# Two sides ------------------------------------------------------------------------------------------------------------


def read_pairs(row: Row) -> RankedAnswers:
    """{chosen, rejected}, and the prompt beside them under any usual name, or in both of them before the answer."""
    chosen, rejected = (messages_of(row[key]) for key in ("chosen", "rejected"))
    key = next((key for key in ASKED if row.get(key) is not None and row[key] != []), None)
    found = _read_transcripts(row[key] if key else None, chosen, rejected)
    if found is None:
        sides = _side(chosen), _side(rejected)
        prompt = with_system(row, _common_prompt(_row_prompt(row, key), sides))
        _refuse_repeated(prompt[-1].text, sides)
        found = as_prompt(prompt), sides[0].answer, sides[1].answer
    return _pair(*found, _scores(row))


def _scores(row: Row) -> tuple[float, float]:
    """Scores of both sides, where a row has them; the chosen one must not be the lower."""
    found = next((pair for pair in SCORES if all(_finite(row.get(key)) is not None for key in pair)), None)
    if found is None:
        return math.inf, 0.0
    better, worse = (_number(row[key], "score") for key in found)
    if better < worse:
        raise BadRow("a chosen answer with the lower score")
    return better, worse


def _row_prompt(row: Row, key: str | None) -> Talk | None:
    """The prompt that a row has beside its two sides."""
    if key is None:
        return None
    if key in HISTORY and is_talk(messages_of(row[key])):
        return history_of(row)
    if key in ABOUT:
        return instruction_of(row, key)
    refuse_history(row, key)
    return prompt_turns(row[key])


def _side(value: Any) -> Side:
    """A text, a message, or a conversation that ends in an answer."""
    if value is None:
        raise BadRow(BROKEN)
    if isinstance(value, Mapping) and any(key in value for key in SPEAKERS):
        value = [value]
    if not is_talk(value):
        return Side((), text_of(value))
    try:
        turns = turns_of(value)
    except BadRow as reason:
        raise BadRow(EMPTY if str(reason) == EMPTY_ANSWER else str(reason)) from None
    if turns[-1].role != ASSISTANT:
        raise BadRow(EMPTY)
    if not turns[-1].learned:
        raise BadRow("an answer that is not to be learned from (weight 0)")
    return Side(turns[:-1], turns[-1].text)


def _common_prompt(given: Talk | None, sides: tuple[Side, Side]) -> Talk:
    """The one prompt that both answers belong to."""
    wholes = [_prompt_before(given, side.before) for side in sides]
    known = [each for each in wholes if each]
    if not known:
        raise BadRow(BROKEN)
    if not all(beginning_alike(known[0], each) for each in known):
        raise BadRow(ALIKE)
    if known[0][-1].role != USER:
        raise BadRow(f"a prompt that ends in a turn of the {known[0][-1].role}")
    return known[0]


def _prompt_before(given: Talk | None, before: Talk) -> Talk:
    """The prompt of an answer: that of the row, or the turns before the answer."""
    if not before:
        return given or ()
    if given is None or not as_prompt(given).strip():
        return before
    if before[0].role == ASSISTANT:
        return given + before
    known = question(given)
    if any(beginning_alike(each, before) for each in (known, known[1:] if known[0].role == SYSTEM else known)):
        return known
    if len(known) == 1 and known[0].text.strip() in (as_prompt(before).strip(), *_questions(before)):
        return before
    raise BadRow(OTHER)


def _questions(turns: Talk) -> list[str]:
    return [turn.text.strip() for turn in turns if turn.role == USER]


def _refuse_repeated(prompt: str, sides: tuple[Side, Side]) -> None:
    """Raise where both answers are texts that begin with the prompt: whether it belongs to them can't be known."""
    start = prompt.strip()
    rests = [side.answer.lstrip().removeprefix(start) for side in sides if not side.before]
    repeats = [side.answer.lstrip().startswith(start) for side in sides if not side.before]
    if start and len(repeats) == len(sides) and all(repeats) and not any(rest[:1].isalnum() for rest in rests):
        raise BadRow(REPEATS)


# Transcripts ----------------------------------------------------------------------------------------------------------


def _read_transcripts(prompt: Any, chosen: Any, rejected: Any) -> tuple[str, str, str] | None:
    """Prompt and answers of two transcripts, or of two answers to one; None for other rows."""
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        return None
    if isinstance(prompt, str) and OPEN.match(prompt):
        return _read_continuations(prompt, chosen, rejected)
    whole = [WHOLE.match(text) is not None for text in (chosen, rejected)]
    if prompt is not None and not any(whole):
        return None
    found = _split_transcripts(chosen, rejected)
    if prompt is not None and prompt_of(prompt).strip() not in (found[0], *_questions(_parse_transcript(chosen))):
        raise BadRow(OTHER)
    return found


def _split_transcripts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two that begin alike and end in an answer each: HH-RLHF."""
    one, two = _parse_transcript(chosen), _parse_transcript(rejected)
    if not beginning_alike(one[:-1], two[:-1]):
        raise BadRow(ALIKE)
    if len(one) < 2:
        raise BadRow(BROKEN)
    return _without_marks(chosen[: chosen.rfind(TURN)]), one[-1].text, two[-1].text


def _parse_transcript(text: str) -> Talk:
    """A transcript as turns; the last is the assistant's."""
    before, *parts = SPEAKS.split(text)
    if before.strip() or not parts:
        raise BadRow(BROKEN)
    spoken = zip(parts[::2], parts[1::2], strict=True)
    turns = tuple(Turn(USER if speaker == "Human" else ASSISTANT, text_of(words).strip()) for speaker, words in spoken)
    if turns[-1].role != ASSISTANT:
        raise BadRow(EMPTY)
    return turns


def _read_continuations(prompt: str, chosen: str, rejected: str) -> tuple[str, str, str]:
    """A transcript up to its answer, and two answers, alone or both with the transcript before them."""
    start = prompt.strip()
    repeats = [text.strip().startswith(start) for text in (chosen, rejected)]
    if repeats[0] != repeats[1]:
        raise BadRow(ALIKE)
    answers = [text_of(text).strip().removeprefix(start).strip() for text in (chosen, rejected)]
    if any(SPEAKS.search(text) for text in answers):
        raise BadRow("an answer with further turns")
    return _without_marks(start[: start.rfind(TURN)]), answers[0], answers[1]


def _without_marks(talk: str) -> str:
    """A transcript without the mark in front of its first question."""
    return text_of(talk).strip().removeprefix(HUMAN.strip()).strip()


# Other shapes ---------------------------------------------------------------------------------------------------------


def read_corrections(row: Row) -> RankedAnswers:
    """{question, answer, correction}, as Aligner has them."""
    return _pair(prompt_of(row["question"]), text_of(row["correction"]), text_of(row["answer"]))


def read_revised_outputs(row: Row) -> RankedAnswers:
    """{instruction, original_output, output}, as Aligner's files for AlpacaEval have them."""
    return _pair(as_prompt(instruction_of(row)), text_of(row["output"]), text_of(row["original_output"]))


def read_ranked(row: Row) -> RankedAnswers:
    """{prompt, answers: [{answer, rank}]}, as Nectar has them: rank 1 is the best."""
    prompt = prompt_of(row["prompt"])
    if prompt.startswith(f"{HUMAN} ") and prompt.count(f"{HUMAN} ") == 1:
        prompt = prompt.removeprefix(f"{HUMAN} ").removesuffix("Assistant: ").strip()
    found = _read_answers(row["answers"], "answer")
    return RankedAnswers(prompt, tuple((text, -_number(each.get("rank"), "rank")) for each, text in found))


def read_scored(row: Row) -> RankedAnswers:
    """{instruction, completions: [{response, overall_score}]}, as UltraFeedback has them."""
    found = _read_answers(row["completions"], "response")
    scores = [each.get("overall_score", each.get("score")) for each, _ in found]
    prompt = as_prompt(with_system(row, instruction_of(row)))
    return RankedAnswers(prompt, tuple((text, _number(s, "score")) for (_, text), s in zip(found, scores, strict=True)))


def _read_answers(value: Any, key: str) -> list[tuple[Row, str]]:
    """Answers with what is known of each."""
    if not isinstance(value, list | tuple):
        raise BadRow(f"{kind(value)} where a list of answers was expected")
    if not all(isinstance(each, Mapping) for each in value):
        raise BadRow("a list of answers without ranks or scores")
    if len(value) < 2:
        raise BadRow("fewer than two answers")
    return [(each, text_of(each.get(key))) for each in value]


def _number(value: Any, name: str) -> float:
    """A finite number, or one written as a text."""
    found = _finite(value)
    if found is None:
        raise BadRow(f"an answer without a {name} that is a number")
    return found


def _finite(value: Any) -> float | None:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Row], RankedAnswers]]] = {
    "pairs": (("prompt", "chosen", "rejected"), read_pairs),
    "conversations": (("conversations", "chosen", "rejected"), read_pairs),
    "ranked": (("prompt", "answers"), read_ranked),
    "scored": (("instruction", "completions"), read_scored),
    "corrections": (("question", "answer", "correction"), read_corrections),
    "revised outputs": (("instruction", "original_output", "output"), read_revised_outputs),
    "both sides": (("chosen", "rejected"), read_pairs),
}
"""By shape, the keys by which a row is recognised, and its reader."""
