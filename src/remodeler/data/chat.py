"""Chat messages as the usual collections write them, read in one place: OpenAI's, ShareGPT's, content in parts.

What a row says is taken as it stands, or the row is no conversation and says why: a reader of files counts such rows by
that reason. Nothing that a conversation holds is passed over: tool calls, images, reasoning beside the answer and
unknown roles make a row unreadable here. Names of speakers, ids and whatever a data set adds for itself are not read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remodeler.data.strict_json import parse_json

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "human": USER,
    "prompter": USER,
    "assistant": ASSISTANT,
    "gpt": ASSISTANT,
}
"""Names of speakers: those of messages, of ShareGPT and of OpenAssistant."""
TOOLS = ("tool", "function", "function_call", "observation", "tool_call", "tool_response", "tool_calls", "ipython")
"""Roles of what a program called or answered."""
SPEAKERS, WORDS = ("role", "from"), ("content", "value", "text")
"""Keys of who speaks, and of what: messages, ShareGPT, and the prompts of RealToxicityPrompts."""
BESIDE = {
    **{key: "tools that may be called" for key in ("tools", "functions")},
    **{key: f"{key} beside the text" for key in ("documents", "attachments", "chat_template_kwargs")},
    **{key: f"{key} beside the text" for key in ("image", "images", "video", "videos", "audio", "audios")},
}
"""Keys of a row or a message whose content would be lost, and what they hold."""
REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
UNREAD = BESIDE | {
    **{key: "a tool call or its result" for key in ("tool_calls", "function_call", "tool_call_id")},
    **{key: "reasoning beside the answer" for key in REASONING},
    **{key: "parts that are not to be learned from" for key in ("train_detail", "training_detail")},
}
"""The same of a message."""
PARTS = ("text", "input_text", "output_text")
"""Types of parts that are text."""
SWITCHES = ("weight", "train", "training", "loss")
"""Keys by which OpenAI, axolotl and ms-swift say whether an answer is learned from."""
PACKED = re.compile(r"\s*\[\s*\{\s*[\"'](?:role|from|content|value)[\"']\s*:")
"""How a list of messages begins that was stored as a text, by JSON or by Python."""
PACKED_OBJECT = re.compile(r"\s*(?:\[\s*)?\{")
"""How any object, or list of objects, begins in a text."""
EMPTY_ANSWER = "an empty answer"
NOT_UTF8 = "text that is not UTF-8 (half of a surrogate pair)"


class BadRow(ValueError):
    """A row that does not hold what its keys promise; the message is the reason, in a few words."""


@dataclass(frozen=True)
class Turn:
    """Who says what."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    text: str
    learned: bool = True
    """Whether an answer is learned from, where that is asked for."""

    def message(self) -> dict[str, str]:
        """As chat templates read it."""
        return {"role": self.role, "content": self.text}


Talk = tuple[Turn, ...]


def text_of(value: Any) -> str:
    """A text, a list of parts that are text, a message, or a prompt with figures beside its text.

    Raises:
        BadRow: for anything else, and for letters that UTF-8 does not have.
    """
    if isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(each, str) for each in value):
        raise BadRow("a list of texts where one was expected")
    return _content(_content_of(value) if isinstance(value, Mapping) else value)


def _content_of(message: Mapping[str, Any]) -> Any:
    """What a message says, as it has it."""
    refuse_beside(message, UNREAD)
    found = [message[key] for key in WORDS if message.get(key) is not None]
    if not found and not any(key in message for key in WORDS):
        raise BadRow(f"a message without text (it has {', '.join(map(str, message))[:40] or 'nothing'}, no content)")
    if not found:
        raise BadRow("a message without text (its content is null)")
    if any(each != found[0] for each in found):
        raise BadRow("a message with two different texts")
    return found[0]


def _content(value: Any) -> str:
    """A text, a part of one, or parts, which are joined."""
    if isinstance(value, Mapping):
        return _part(value)
    if isinstance(value, list | tuple):
        if not value:
            raise BadRow("a message without text (its content is an empty list)")
        return "".join(map(_part, value))
    if not isinstance(value, str):
        raise BadRow("no text" if value is None else f"{kind(value)} where a text was expected")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRow(NOT_UTF8)
    return value


def _part(part: Any) -> str:
    if isinstance(part, str):
        return _content(part)
    if not isinstance(part, Mapping):
        raise BadRow(f"{kind(part)} where a part of a message was expected")
    form = part.get("type") or PARTS[0]
    others = [key for key, value in part.items() if str(key).endswith("_url") and not _is_empty(value)]
    if form not in PARTS or others:
        raise BadRow(f"a part of the type {others[0] if others else form!r:.30}, no text")
    text = _content_of(part)
    if not isinstance(text, str):
        raise BadRow(f"{kind(text)} where a text was expected")
    return _content(text)


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {bool: "true or false", int: "a number", float: "a number", type(None): "nothing", str: "a text"}
    names |= {dict: "an object", list: "a list", tuple: "a list"}
    return names.get(type(value), type(value).__name__)


def refuse_beside(found: Mapping[str, Any], keys: Mapping[str, str] = BESIDE) -> None:
    """Raise for what would be lost; what is empty or null, or an object of such, as Arrow fills rows, is absent.

    Raises:
        BadRow: for a key that holds something.
    """
    for key, reason in keys.items():
        if not _is_empty(found.get(key)):
            raise BadRow(reason)


def _is_empty(value: Any) -> bool:
    """Whether a value holds nothing; an object may do so by its names' values."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    return all(map(_is_empty, value.values())) if isinstance(value, Mapping) else not value


# Conversations --------------------------------------------------------------------------------------------------------


def messages_of(value: Any) -> Any:
    """The list behind messages, or one message, stored as JSON text; anything else as it is.

    Raises:
        BadRow: for such a text that is no JSON.
    """
    if not isinstance(value, str) or not PACKED_OBJECT.match(value):
        return value
    try:
        found = parse_json(value)
    except ValueError:
        if PACKED.match(value):
            raise BadRow("messages stored as a text that is not JSON") from None
        return value
    listed = found if isinstance(found, list) else [found]
    return listed if _are_messages(listed) else value


def _are_messages(found: list[Any]) -> bool:
    """Whether all elements say who speaks and what is said: anything else is an answer in JSON."""
    keys = (*SPEAKERS, "content", "value")
    return all(isinstance(each, Mapping) and sum(key in each for key in keys) > 1 for each in found)


def is_talk(value: Any) -> bool:
    """Whether it is a list of messages with speakers, not of parts of one text."""
    listed = value if isinstance(value, list | tuple) else ()
    return any(isinstance(each, Mapping) and any(key in each for key in SPEAKERS) for each in listed)


def turns_of(value: Any) -> Talk:
    """A conversation as turns, whatever its form.

    Raises:
        BadRow: for what is none, with the reason.
    """
    found = messages_of(value)
    if not isinstance(found, list | tuple):
        raise BadRow(f"{kind(found)} where messages were expected")
    if not found:
        raise BadRow("an empty conversation")
    return tuple(map(turn_of, found))


def turn_of(message: Any) -> Turn:
    """One message.

    Raises:
        BadRow: for what is none, with the reason.
    """
    if not isinstance(message, Mapping):
        raise BadRow(f"{kind(message)} where a message was expected")
    role = _role(message)
    text = text_of(message)
    if role != SYSTEM and not text.strip():
        raise BadRow(EMPTY_ANSWER if role == ASSISTANT else "an empty turn of the user")
    return Turn(role, text, _is_learned(message))


def _role(message: Mapping[str, Any]) -> str:
    given = [message[key] for key in SPEAKERS if message.get(key) is not None]
    if not given:
        raise BadRow("a message without a role")
    names = [each.strip().lower() if isinstance(each, str) else kind(each) for each in given]
    if any(name in TOOLS for name in names):
        raise BadRow("a tool call or its result")
    unknown = next((name for name in names if name not in ROLES), None)
    if unknown is not None:
        raise BadRow(f"a turn of {unknown!r:.40} ({', '.join(ROLES)} are known)")
    if len({ROLES[name] for name in names}) > 1:
        raise BadRow("a message with two different roles")
    return ROLES[names[0]]


def _is_learned(message: Mapping[str, Any]) -> bool:
    values = [(key, message[key]) for key in SWITCHES if message.get(key) is not None]
    for key, value in values:
        if value not in (0, 1):
            raise BadRow(f"a {key} of {value!r:.20} (0 and 1 are known)")
    return all(value for _, value in values)
