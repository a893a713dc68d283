"""Prompts as the usual collections write them: a text, a turn, a conversation; under whatever name a row has it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from remodeler.data.chat import (
    NOT_UTF8,
    ROLES,
    SPEAKERS,
    USER,
    BadRow,
    Talk,
    Turn,
    is_talk,
    kind,
    messages_of,
    refuse_beside,
    text_of,
    turns_of,
)
from remodeler.data.conversations import HISTORY, as_prompt, history_of, question, with_system
from remodeler.data.lines import Row
from remodeler.data.rows import source_rows
from remodeler.data.sources import STREAMED
from remodeler.errors import InputError

KEYS = ("prompt", "instruction", "question", "turns", "messages", "conversations", "text", "goal", "conversation")
"""Tried in this order; of MT-Bench's turns the first is taken."""
NOTHING = "nothing is asked"
"""Why a row without any of these is left out."""
ABOUT = ("instruction", "question")
"""Those that may be about something that a row has beside them."""
MORE = ("input", "context")
"""What that is called: Alpaca's and Dolly's names."""
MANY = 10**6
"""Rows of a data set on the hub, where nobody says how many are wanted."""


def prompt_turns(value: Any) -> Talk:
    """A prompt as turns: a text is the user's; a conversation ends where the answer begins.

    Raises:
        BadRow: for what is neither.
    """
    found = messages_of(value)
    if isinstance(found, Mapping) and any(key in found for key in SPEAKERS):
        found = [found]
    if not is_talk(found):
        return (Turn(USER, text_of(found)),)
    turns = turns_of(found)
    if turns[-1].role != USER:
        raise BadRow(f"a prompt that ends in a turn of the {turns[-1].role}")
    return turns


def prompt_of(value: Any) -> str:
    """A text, or a conversation as one: a lone turn of the user as it is, several with their speakers' names.

    Raises:
        BadRow: for what is neither.
    """
    return as_prompt(prompt_turns(value))


def instruction_of(row: Mapping[str, Any], key: str = "instruction") -> Talk:
    """An instruction or a question with what it is about, on a line of its own, as LLaMA-Factory joins them.

    Raises:
        BadRow: for a row without one, or with a history of turns beside it.
    """
    refuse_history(row, key)
    turns = prompt_turns(row[key])
    about = [_about(row, name, key) for name in MORE if row.get(name)]
    text = "\n".join(each for each in (turns[-1].text, *about) if each.strip())
    return (*turns[:-1], replace(turns[-1], text=text))


def _about(row: Mapping[str, Any], name: str, key: str) -> str:
    try:
        return text_of(row[name])
    except BadRow:
        raise BadRow(f"{kind(row[name])} as the {name} of the {key}, where a text was expected") from None


def refuse_history(row: Mapping[str, Any], key: str) -> None:
    """Raise for earlier turns beside a prompt, as LLaMA-Factory has them."""
    if row.get("history"):
        raise BadRow(f"a history beside the {key}")


def asks(row: Any) -> str:
    """What a row asks; a bare text asks itself.

    Raises:
        BadRow: when it asks nothing, with the reason.
    """
    if isinstance(row, str):
        return text_of(row)
    named = [each for each in KEYS if isinstance(row, Mapping) and row.get(each) is not None]
    if not named:
        raise BadRow(NOTHING)
    key = next((each for each in named if row[each] not in ("", [])), named[0])
    refuse_beside(row)
    if key == "text" and isinstance(role := row.get("role"), str) and ROLES.get(role.strip().lower(), USER) != USER:
        raise BadRow(f"a message of the {role!r:.20}, no prompt")
    return as_prompt(with_system(row, _turns(row, key)))


def _turns(row: Mapping[str, Any], key: str) -> Talk:
    if key in HISTORY:
        return question(history_of(row))
    if key in ABOUT:
        return instruction_of(row, key)
    if key == "turns" and not is_talk(row[key]):
        if not isinstance(row[key], list | tuple) or not row[key]:
            raise BadRow("no turns" if row[key] == [] else f"{kind(row[key])} where turns were expected")
        return prompt_turns(row[key][0])
    if key == "prompt":
        refuse_history(row, key)
    return prompt_turns(row[key])


def require_prompt(source: str, number: int, row: Any) -> str:
    """The same, as a sentence where it asks nothing.

    Raises:
        InputError: when it asks nothing.
    """
    try:
        return asks(row)
    except BadRow as reason:
        where = f"row {number} of {source}"
        if str(reason) == NOT_UTF8:
            raise InputError(f"{where} is not UTF-8 text: convert the file") from None
        if str(reason) == NOTHING:
            raise InputError(f"{where} has no prompt: name it {', '.join(KEYS)}") from None
        raise InputError(f"{where} has no prompt that can be asked ({reason}): correct it") from None


def rows(source: str, samples: int | None = None) -> Iterator[Any]:
    """The rows of a source, one at a time, as :mod:`remodeler.data.rows` reads them; of ``.txt`` a row is a line.

    Of a data set on the hub no more are read than are enough for some samples.

    Raises:
        InputError: for a source that can't be read, or a row that is broken.
    """
    return (row.checked() for row in read_numbered(source, samples))


def read_numbered(source: str, samples: int | None = None) -> Iterator[Row]:
    """The same with their numbers; a row that is broken says so, and the others follow."""
    return source_rows(source, STREAMED * min(samples or MANY, MANY))
