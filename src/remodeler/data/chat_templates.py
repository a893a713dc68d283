"""Chat templates at work: a conversation as the text that a tokenizer's template makes of it.

A template is a program that comes with a model. What it refuses is refused in its own words, and what it makes is held
against what it was given: a turn that it leaves out or changes would be learned from or asked wrongly, and nobody would
see it. A system's turn that it refuses or leaves out stands at the beginning of the user's first.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from remodeler.data.chat import ASSISTANT, SYSTEM, USER, BadRow, Talk, Turn
from remodeler.data.conversations import system_in_user
from remodeler.errors import InputError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n\n{% endfor %}" + (
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
"""For a tokenizer without a chat template."""
MARK = "\ue000\ue001\ue002"
"""Stands where an answer is looked for: letters for private use, which no text has."""
DATE = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24", "%A": "Friday", "%a": "Fri"}
DATE |= {"%H": "12", "%M": "00", "%S": "00", "%-d": "26", "%-m": "7", "%F": "2024-07-26"}
"""The day that templates get which write today's: Llama's own for those who give none."""
TODAY = "strftime_now"
"""The function by which a template asks for it."""
FIXED = (
    "{%- macro "
    + TODAY
    + "(format) -%}{{ format"
    + "".join(f" | replace({code!r}, {text!r})" for code, text in DATE.items())
    + " }}{%- endmacro -%}"
)
"""That function with the one answer: the same command reads the same texts on every day."""


class RefusedPromptError(InputError):
    """A prompt that a chat template refuses or changes; ``reason`` says so without naming it."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def template_of(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """A tokenizer's template for chats, or None where it has none.

    Raises:
        InputError: for several of which none is the default.
    """
    if not tokenizer.chat_template:
        return None
    try:
        found = str(tokenizer.get_chat_template())
    except ValueError:
        names = ", ".join(sorted(map(str, tokenizer.chat_template)))
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} has the chat templates {names} and no default: "
            "name one of them default"
        ) from None
    return FIXED + found if TODAY in found else found


def written(tokenizer: "PreTrainedTokenizerBase", turns: Talk, template: str, prompt: bool = False) -> str:
    """Turns by a template; with ``prompt`` up to where the assistant's next answer begins.

    Raises:
        BadRow: when the template refuses them, with its words.
        InputError: for a template that is none.
    """
    from jinja2 import TemplateSyntaxError

    messages = [turn.message() for turn in turns]
    try:
        found = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
        )
    except TemplateSyntaxError as error:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} is broken (line {error.lineno}: {one_line(error)}): "
            "correct it"
        ) from None
    except Exception as error:  # a template is a program: it may raise anything
        raise BadRow(f"the chat template refuses it: {one_line(error)}") from None
    return str(found)


def rendered_turns(
    tokenizer: "PreTrainedTokenizerBase", turns: Talk, template: str, prompt: bool = False
) -> tuple[Talk, str]:
    """A conversation by a template, and its turns as the template takes them: without a system's, where it has to be.

    Raises:
        BadRow: when the template refuses it, or leaves a turn out, with the reason.
        InputError: for a template that is none.
    """
    try:
        return turns, _whole(tokenizer, turns, template, prompt)
    except BadRow:
        if turns[0].role != SYSTEM:
            raise
        moved = system_in_user(turns)
        try:
            return moved, _whole(tokenizer, moved, template, prompt)
        except BadRow:
            pass
        raise


def _whole(tokenizer: "PreTrainedTokenizerBase", turns: Talk, template: str, prompt: bool) -> str:
    """The text, in which every turn's stands in its order."""
    whole, place = written(tokenizer, turns, template, prompt), 0
    for turn in turns:
        found = whole.find(turn.text.strip(), place)
        if found < 0:
            raise BadRow(f"the chat template leaves out or changes a turn of the {turn.role}")
        place = found + len(turn.text.strip())
    return whole


def answer_spans(tokenizer: "PreTrainedTokenizerBase", turns: Talk, template: str, whole: str) -> list[tuple[int, int]]:
    """Characters ``[start, end)`` of a rendered conversation that its answers stand in, with what ends them.

    An answer begins where the template lets one begin; where it says nothing of that, with its first letter.

    Raises:
        BadRow: where they can't be found.
    """
    learned = [place for place, turn in enumerate(turns) if turn.role == ASSISTANT and turn.learned]
    return [_span(tokenizer, turns, template, whole, place) for place in learned]


def _span(tokenizer: "PreTrainedTokenizerBase", turns: Talk, template: str, whole: str, place: int) -> tuple[int, int]:
    """Of one answer: found by a mark in its stead, in the whole conversation and in the one that it ends."""
    turn = replace(turns[place], text=MARK)
    before, after = _around(written(tokenizer, (*turns[:place], turn, *turns[place + 1 :]), template))
    start, stop = len(before), len(whole) - len(after)
    if whole[:start] != before or whole[stop:] != after or whole[start:stop].strip() != turns[place].text.strip():
        raise BadRow("the chat template leaves out or changes a turn of the assistant")
    ending = _around(written(tokenizer, (*turns[:place], turn), template))[1]
    if not after.startswith(ending):
        raise BadRow("the chat template writes a turn otherwise once others follow")
    asked = written(tokenizer, turns[:place], template, prompt=True)
    marked = asked != written(tokenizer, turns[:place], template) and before.startswith(asked)
    return len(asked) if marked else start, stop + len(ending)


def _around(text: str) -> tuple[str, str]:
    """What stands before and behind the mark."""
    before, _, after = text.partition(MARK)
    if text.count(MARK) != 1:
        raise BadRow("the chat template leaves out or changes a turn of the assistant")
    return before, after


def asked_in_chat(tokenizer: "PreTrainedTokenizerBase", name: str, prompt: str) -> str:
    """A prompt as the turn of a user, up to where the answer begins.

    Raises:
        RefusedPromptError: for a prompt that the template refuses or leaves out.
        InputError: without a template.
    """
    template = template_of(tokenizer)
    if template is None:
        raise InputError(f"the tokenizer of {name} has no chat template: leave out `chat`")
    try:
        return rendered_turns(tokenizer, (Turn(USER, prompt),), template, prompt=True)[1]
    except BadRow as reason:
        sentence = f"the prompt {prompt!r:.40} can't be asked of {name} with `chat` ({reason})"
        raise RefusedPromptError(f"{sentence}: leave out the one or the other", str(reason)) from None
