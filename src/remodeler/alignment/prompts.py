"""Prompts without answers, and prompts with responses, from files and data sets."""

from dataclasses import dataclass
from typing import Any

from remodeler.errors import InputError
from remodeler.prompts import BadRow, asked, rows, text_of

RESPONSES = ("response", "output", "answer", "completion", "original_output")
"""Keys, in the order in which they are tried."""


@dataclass(frozen=True)
class Response:
    """What was asked and what was answered."""

    prompt: str
    response: str


def read_prompts(source: str, limit: int | None = None) -> list[str]:
    """The prompts of a source, each once: ``.txt`` (a line each), ``.jsonl``, ``.json``, ``.csv``, ``.parquet``, hub.

    Raises:
        InputError: for a source that can't be read or has no prompt.
    """
    refuse_limit(limit)
    found = [asked(source, number, row) for number, row in enumerate(rows(source), 1)]
    found = list(dict.fromkeys(each for each in found if each.strip()))[:limit]
    if not found:
        raise InputError(f"{source} has no prompts: give a file with at least one")
    return found


def refuse_limit(limit: int | None) -> None:
    """Raise for a part of nothing."""
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} was given, at least 1 was expected: raise it")


def read_responses(source: str) -> list[Response]:
    """Prompts with responses, in their order; empty responses too.

    Raises:
        InputError: for a source that can't be read, or a row without both.
    """
    found = [
        Response(asked(source, number, row), _response(source, number, row))
        for number, row in enumerate(rows(source), 1)
    ]
    if not found:
        raise InputError(f"{source} is empty: give a file with at least one prompt and response")
    return found


def _response(source: str, number: int, row: Any) -> str:
    key = next((each for each in RESPONSES if isinstance(row, dict) and row.get(each) is not None), None)
    try:
        if key is not None:
            return text_of(row[key])
    except BadRow:
        pass
    raise InputError(f"row {number} of {source} has no response: name it {', '.join(RESPONSES)}")
