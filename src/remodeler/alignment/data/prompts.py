"""Prompts without answers, and prompts with responses, from files and data sets."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.data.chat import ASSISTANT, USER, BadRow, is_talk, messages_of, text_of, turns_of
from remodeler.data.conversations import as_prompt, conversation_of, histories, question
from remodeler.data.prompts import KEYS, asks, rows
from remodeler.errors import InputError, LeftOut, count_reasons

MOST = 4
"""Reasons that a sentence names."""
RESPONSES = ("response", "output", "answer", "completion", "original_output")
"""Keys, in the order in which they are tried."""


@dataclass(frozen=True)
class Response:
    """A prompt, its response, and the row that holds them, from 0."""

    prompt: str
    response: str
    row: int = 0


def read_prompts(source: str, limit: int | None = None, dropped: LeftOut | None = None) -> list[str]:
    """The prompts of a source, each once: ``.txt`` (a line each), ``.jsonl``, ``.json``, ``.csv``, ``.parquet``, hub.

    Args:
        source: where they are.
        limit: at most so many.
        dropped: counts, by reason, the rows that ask nothing; these are left out.

    Raises:
        InputError: for a source that can't be read or has no prompt.
    """
    dropped = LeftOut() if dropped is None else dropped
    found = list(dict.fromkeys(_prompts(source, dropped)))[:limit]
    if not found:
        raise InputError(f"{source} has no prompts{_left_out(dropped)}: give a file with at least one")
    return found


def _prompts(source: str, dropped: LeftOut) -> Iterator[str]:
    """Every prompt; blank ones are counted, but for blank lines of a text."""
    by_lines = Path(source).suffix.lower() == ".txt"
    for number, row in enumerate(rows(source), 1):
        try:
            text = asks(row)
        except BadRow as reason:
            dropped.add(reason, number)
            continue
        if text.strip():
            yield text
        elif not by_lines:
            dropped.add("an empty prompt", number)


def _left_out(dropped: Mapping[str, int]) -> str:
    """Counts of rows that were left out, if any."""
    return (
        f" (left out: {count_reasons(dropped, MOST)}; known names are {', '.join(KEYS)})"
        if any(dropped.values())
        else ""
    )


def read_responses(source: str, dropped: LeftOut | None = None) -> list[Response]:
    """Prompts with responses, in their order; empty responses too.

    A conversation without a response beside it is its last answer's, and the turns before are the prompt.

    Args:
        source: where they are.
        dropped: counts, by reason, the rows that lack either; these are left out.

    Raises:
        InputError: for a source that can't be read or has no row with both.
    """
    dropped = LeftOut() if dropped is None else dropped
    found, bad = [], ""
    for number, row in enumerate(rows(source)):
        try:
            found.append(Response(*_prompt_and_response(row), number))
        except BadRow as reason:
            bad = bad or f"row {number + 1} of {source} has {reason}"
            dropped.add(reason, number + 1)
    if not found and bad:
        raise InputError(f"{bad}, nor has another row both: name it {', '.join(RESPONSES)}")
    if not found:
        raise InputError(f"{source} is empty: give a file with at least one prompt and response")
    return found


def _prompt_and_response(row: Any) -> tuple[str, str]:
    """Prompt and response: beside it, or at the end of a conversation."""
    with _naming("no prompt"):
        prompt = asks(row)
        if not prompt.strip():
            raise BadRow("nothing is asked")
    with _naming("no response"):
        key = next((each for each in RESPONSES if isinstance(row, Mapping) and row.get(each) is not None), None)
        if key is not None:
            return prompt, _answer(messages_of(row[key]))
        if not isinstance(row, Mapping) or not histories(row):
            raise BadRow("nothing is answered")
        turns = conversation_of(row)
        if turns[-1].role != ASSISTANT:
            raise BadRow("the conversation ends in a question")
        if turns[-2:-1] and turns[-2].role != USER:
            raise BadRow(f"an answer behind a turn of the {turns[-2].role}")
        return as_prompt(question(turns)), turns[-1].text


def _answer(value: Any) -> str:
    """A text, or one message of the assistant's."""
    if not is_talk(value):
        return text_of(value)
    turns = turns_of(value)
    if [turn.role for turn in turns] != [ASSISTANT]:
        raise BadRow("messages that are more than one answer")
    return turns[0].text


@contextmanager
def _naming(lack: str) -> Iterator[None]:
    """Put what a row lacks before the reason."""
    try:
        yield
    except BadRow as reason:
        raise BadRow(f"{lack} ({reason})") from None
