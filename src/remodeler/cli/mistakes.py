"""What is wrong with the words that were typed: one sentence in our words, whatever the parser's are."""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_origin

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.exceptions import UnknownCommandError

from remodeler.errors import one_line
from remodeler.runs.options import Spec, listed, specs

NOUNS = {int: "a whole number", float: "a number", bool: "yes or no", Path: "a path"}
"""What a value of a type is called."""


def describe_mistake(error: CycloptsError) -> str:
    """What is wrong, a guess at what was meant where there is one, and where to look."""
    page = " ".join(["remodel", *(error.command_chain or ()), "--help"])
    words = next((words for kind, words in WORDS.items() if isinstance(error, kind)), one_line)
    what = words(error).removesuffix(".")
    return f"{what} See {page}" if what.endswith("?") else f"{what}: see {page}"


def _unknown_option(error: Any) -> str:
    given = (error.token.keyword or error.token.value).partition("=")[0]
    known = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    return f"unknown option {given}{_guess(given, known)}"


def _unknown_verb(error: Any) -> str:
    given = error.unused_tokens[0]
    if given.startswith("-"):
        return f"unknown option {given}{_guess(given, error.app or ())}"
    return f"unknown verb {given!r}{_guess(given, [name for name in error.app or () if name[0].isalpha()])}"


def _guess(given: str, known: Iterable[str]) -> str:
    close = get_close_matches(given, list(known), 1)
    return f": did you mean {close[0]}?" if close else ""


def _unused(error: Any) -> str:
    """A word too many; mostly the second value of an option that is repeated, or that takes a list."""
    given = error.unused_tokens[0]
    flag, values = _option_before(error.root_input_tokens or (), given)
    spec = _spec_of(error.target, flag)
    text = f"{given!r} was not expected"
    if spec is not None and spec.option.read is listed:
        return f"{text}: separate the values of {flag} by commas, {flag} {','.join(values)}"
    if spec is not None and get_origin(spec.type) is tuple:
        return f"{text}: repeat {flag} for each value, {' '.join(f'{flag} {value}' for value in values)}"
    return text


def _option_before(words: Sequence[str], last: str) -> tuple[str, list[str]]:
    """The option that the words up to the last one follow, and these; the last one stands behind its value."""
    upto = list(words[: words.index(last) + 1]) if last in words else []
    places = [place for place, word in enumerate(upto) if word.startswith("--")]
    return (upto[places[-1]], upto[places[-1] + 1 :]) if places else ("", [])


def _spec_of(command: Any, flag: str) -> Spec | None:
    """The option of a verb that a flag spells."""
    kind = getattr(command, "config", None)
    return None if kind is None else next((spec for spec in specs(kind) if flag in spec.flags), None)


def _missing(error: Any) -> str:
    typed = [name for name in error.argument.names if name in (error.root_input_tokens or ())]
    return f"{typed[0]} needs a value" if typed else f"{error.argument.name} must be given"


def _twice(error: Any) -> str:
    return f"{error.token.keyword} was given twice"


def _wrong_type(error: Any) -> str:
    if error.token is None or error.target_type not in NOUNS:
        return one_line(error)
    name = error.token.keyword or error.argument.name
    return f"{name} must be {NOUNS[error.target_type]} (got {error.token.value!r})"


WORDS: dict[type[CycloptsError], Callable[[Any], str]] = {
    UnknownOptionError: _unknown_option,
    UnknownCommandError: _unknown_verb,
    UnusedCliTokensError: _unused,
    MissingArgumentError: _missing,
    RepeatArgumentError: _twice,
    CoercionError: _wrong_type,
}
"""By the parser's errors what they mean; the rest is said in its words."""
