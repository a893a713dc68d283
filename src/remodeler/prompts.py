"""Prompts as the usual collections write them: a text, a turn, a conversation; under whatever name a row has it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.sources import rows_of

KEYS = ("prompt", "instruction", "question", "turns", "messages", "text", "goal")
"""Tried in this order; of MT-Bench's turns the first is taken."""
WORDS = ("content", "value", "text")
"""Where a turn says something: messages, ShareGPT, and the prompts of RealToxicityPrompts."""
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
"""ShareGPT's names of speakers, and those of messages."""
MANY = 10**6
"""Rows of a data set on the hub, where nobody says how many are wanted."""


class BadRow(ValueError):
    """A row that does not hold what its keys promise."""


def text_of(value: Any) -> str:
    """A text, or what a message or a prompt with figures says.

    Raises:
        BadRow: for anything else.
    """
    if isinstance(value, Mapping):
        value = next((value[key] for key in WORDS if key in value), None)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return text_of(value[-1])  # of a conversation its last turn
    if not isinstance(value, str):
        raise BadRow("a text or a message was expected")
    return value


def prompt_of(value: Any) -> str:
    """A text, or a conversation as one: a lone turn of the user as it is, several with their speakers' names."""
    if isinstance(value, str | Mapping):
        return text_of(value)
    if not isinstance(value, Sequence) or not value:
        raise BadRow("a prompt or messages were expected")
    turns = [(ROLES.get(str(each.get("role", each.get("from")))), text_of(each)) for each in value]
    if any(role is None for role, _ in turns):
        raise BadRow(f"speakers other than {', '.join(ROLES)}")
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{str(role).capitalize()}: {text}" for role, text in turns)


def asked(source: str, number: int, row: Any) -> str:
    """What a row asks; a bare text asks itself.

    Raises:
        InputError: when it asks nothing.
    """
    if isinstance(row, str):
        return row
    key = next((each for each in KEYS if isinstance(row, Mapping) and row.get(each) is not None), None)
    try:
        found = prompt_of(row[key][0] if key == "turns" else row[key]) if key is not None else None
    except (BadRow, AttributeError, TypeError, IndexError, KeyError):
        found = None
    if found is None:
        raise InputError(f"row {number} of {source} has no prompt: name it {', '.join(KEYS)}")
    if not found.isascii() and any("\ud800" <= letter <= "\udfff" for letter in found):
        raise InputError(f"row {number} of {source} is not UTF-8 text: convert the file")
    return found


def rows(source: str, samples: int | None = None) -> Iterator[Any]:
    """The rows of a source, one at a time; only files of JSON lines are never in memory as a whole.

    Of a data set on the hub no more are read than are enough for some samples.
    """
    path = Path(source)
    if path.suffix.lower() != ".jsonl" or not path.is_file():
        yield from rows_of(source, min(samples or MANY, MANY))
        return
    with path.open(encoding="utf-8-sig") as file, utf8(path):
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(path, number, line)


@contextmanager
def utf8(path: Path) -> Iterator[None]:
    """A file in another encoding, as one sentence."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}): convert it") from None


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InputError(f"line {number} of {path} is not valid JSON ({error}): restore or remove it") from None
