"""Prompts as the usual collections write them: a text, a turn, a conversation; under whatever name a row has it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from remodeler.errors import InputError
from remodeler.lines import Row
from remodeler.rows import source_rows
from remodeler.sources import STREAMED

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
    """The rows of a source, one at a time, as :mod:`remodeler.rows` reads them; of ``.txt`` a row is a line.

    Of a data set on the hub no more are read than are enough for some samples.

    Raises:
        InputError: for a source that can't be read, or a row that is broken.
    """
    return (row.checked() for row in numbered(source, samples))


def numbered(source: str, samples: int | None = None) -> Iterator[Row]:
    """The same with their numbers; a row that is broken says so, and the others follow."""
    return source_rows(source, STREAMED * min(samples or MANY, MANY))
