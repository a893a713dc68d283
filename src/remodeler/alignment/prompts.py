"""Prompts without answers, and prompts with responses, from files and data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.alignment.preferences import rows, utf8
from remodeler.alignment.shapes import BadRow, prompt_of, text_of
from remodeler.errors import InputError

PROMPTS = ("prompt", "instruction", "question", "turns", "messages", "text")
RESPONSES = ("response", "output", "answer", "completion", "original_output")
"""Keys, in the order in which they are tried; of MT-Bench's turns the first is taken."""


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
    if Path(source).suffix.lower() == ".txt" and Path(source).is_file():
        with utf8(Path(source)):
            found = Path(source).read_text(encoding="utf-8-sig").splitlines()
    else:
        found = [_prompt(source, number, row) for number, row in enumerate(rows(source), 1)]
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
        Response(_prompt(source, number, row), _text(source, number, row, RESPONSES))
        for number, row in enumerate(rows(source), 1)
    ]
    if not found:
        raise InputError(f"{source} is empty: give a file with at least one prompt and response")
    return found


def _prompt(source: str, number: int, row: Any) -> str:
    if isinstance(row, dict) and "turns" in row:
        row = {"turns": row["turns"][:1]}
    if isinstance(row, dict) and "messages" in row:
        return prompt_of(row["messages"])
    return _text(source, number, row, PROMPTS)


def _text(source: str, number: int, row: Any, keys: Sequence[str]) -> str:
    key = next((each for each in keys if isinstance(row, dict) and row.get(each) is not None), None)
    try:
        if key is not None:
            return text_of(row[key])
    except BadRow:
        pass
    raise InputError(f"row {number} of {source} has no {keys[0]}: name it {', '.join(keys)}")
