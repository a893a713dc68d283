"""Conversations as rows hold them, and what is done with their turns: asked, answered, written as one text."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from remodeler.data.chat import (
    ASSISTANT,
    PACKED,
    SYSTEM,
    USER,
    BadRow,
    Talk,
    Turn,
    kind,
    refuse_beside,
    text_of,
    turns_of,
)

HISTORY = ("conversations", "messages", "conversation")
"""Keys of a whole conversation; the last is LMSYS's and WildChat's, and elsewhere that of a plain text."""
DIFFERENT = "messages and conversations that differ"
SYSTEMS = ("system", "system_prompt", "system_message")
"""Keys of a row that holds the system's text beside the conversation."""


def conversation_of(row: Any) -> Talk:
    """The conversation of a row, with the system's text where the row has it beside.

    Raises:
        BadRow: for a row that holds none, with the reason.
    """
    if not isinstance(row, Mapping):
        raise BadRow(f"{kind(row)} where an object with messages was expected")
    refuse_beside(row)
    return with_system(row, history_of(row))


def history_of(row: Mapping[str, Any]) -> Talk:
    """The turns of a row's conversation; the same one may stand there in two forms.

    Raises:
        BadRow: for a row that holds none, or two, with the reason.
    """
    values = histories(row)
    if not values:
        raise BadRow("no messages")
    found = [turns_of(each) for each in values if each != []]
    if not found:
        raise BadRow("an empty conversation")
    if not all(beginning_alike(found[0], each) for each in found):
        raise BadRow(DIFFERENT)
    return found[0]


def histories(row: Mapping[str, Any]) -> list[Any]:
    """What a row has under the keys of a conversation."""
    last = row.get(HISTORY[-1])
    plain = isinstance(last, str) and not PACKED.match(last)
    return [row[key] for key in HISTORY[: len(HISTORY) - plain] if row.get(key) is not None]


def with_system(row: Mapping[str, Any], turns: Talk) -> Talk:
    """Turns behind the system's text, where a row has it beside them."""
    texts = {text_of(row[key]) for key in SYSTEMS if row.get(key)} - {""}
    if not texts:
        return turns
    begun = [turn.text for turn in turns[:1] if turn.role == SYSTEM]
    if len(texts) > 1 or (begun and begun != [*texts]):
        raise BadRow("two different system prompts")
    return turns if begun else (Turn(SYSTEM, texts.pop()), *turns)


def learned_from(row: Mapping[str, Any]) -> Talk:
    """The conversation of a row, where its answers are to be learned from.

    Raises:
        BadRow: where they are not, or where none stands there, with the reason.
    """
    turns = require_answer(conversation_of(row))
    if row.get("label") is False or row.get("kto_tag") is False:
        raise BadRow("an answer that is marked as a bad one (label false)")
    if turns[-1].role == USER and row.get("chosen") is not None:
        raise BadRow("a chosen answer beside the conversation")
    return turns


def require_answer(turns: Talk) -> Talk:
    """Itself, where there is something to learn: a question, and an answer to it.

    Raises:
        BadRow: where there is not.
    """
    spoken = [turn for turn in turns if turn.role != SYSTEM]
    if spoken and spoken[0].role == ASSISTANT:
        raise BadRow("the assistant speaks first")
    if not any(turn.role == ASSISTANT for turn in spoken):
        raise BadRow("nobody answers")
    if not any(turn.role == ASSISTANT and turn.learned for turn in spoken):
        raise BadRow("no answer that is to be learned from (weight 0)")
    return turns


def question(turns: Talk) -> Talk:
    """What is asked: the turns up to the last of the user's; the answer behind it is left off.

    Raises:
        BadRow: when nobody asks.
    """
    last = max((place for place, turn in enumerate(turns) if turn.role == USER), default=None)
    if last is None:
        raise BadRow("no turn of the user")
    if any(turn.role != ASSISTANT for turn in turns[last + 1 :]):
        raise BadRow("a system prompt behind the last question")
    return turns[: last + 1]


def as_prompt(turns: Talk) -> str:
    """A conversation as one text: a lone turn of the user as it is, several with their speakers' names."""
    said = [turn for turn in turns if turn.role != SYSTEM or turn.text.strip()]
    if len(said) == 1:
        return said[0].text
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.text}" for turn in said)


def system_in_user(turns: Talk) -> Talk:
    """The same without a system's turn: its text stands at the beginning of the user's first."""
    system = "\n\n".join(turn.text for turn in turns if turn.role == SYSTEM and turn.text.strip())
    rest = [turn for turn in turns if turn.role != SYSTEM]
    place = next((place for place, turn in enumerate(rest) if turn.role == USER), None)
    if system and place is not None:
        rest[place] = replace(rest[place], text=f"{system}\n\n{rest[place].text}")
    return tuple(rest)


def beginning_alike(one: Iterable[Turn], two: Iterable[Turn]) -> bool:
    """Whether two conversations say the same, white space around a turn aside."""
    return [(each.role, each.text.strip()) for each in one] == [(each.role, each.text.strip()) for each in two]
