"""JSON as the standard has it: what Python's reader takes in silence, and what it means twice, is refused.

A name that comes twice in an object, infinities, numbers that no float holds, and half a surrogate pair (which no
tokenizer and no file takes) are errors here. NaN, as Python and pandas write a value that is missing, is null. Messages
are one line and name what was found.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

BLANK = " \t\r\n"
"""JSON's own white space."""
HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Where a text may hold half a surrogate pair."""
BEHIND = "more behind the list's end"
"""The message where a list is not all of a text."""
BREAKS_OFF = "it breaks off"
"""How the message begins where a value goes on behind the end of a line."""


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: for anything that is no JSON, in words.
    """
    try:
        value, end = _STRICT.raw_decode(text, _behind_blanks(text, 0))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(_explain(error, text)) from None
    if (more := _behind_blanks(text, end)) < len(text):
        raise ValueError(f"more behind its end, at column {more + 1}")
    _refuse_half_pairs(text, value)
    return value


def elements(text: str) -> Iterator[Any]:
    """The elements of a JSON list, one at a time; a :class:`ValueError` in the place of one that is not strictly JSON.

    Raises:
        ValueError: where the list itself is broken.
    """
    place, separator = _behind_blanks(text, _behind_blanks(text, 0) + 1), ","
    if text[place : place + 1] == "]":
        separator = "]"
        place += 1
    while separator == ",":
        value, place = _element(text, place)
        yield value
        place = _behind_blanks(text, place)
        separator = text[place : place + 1]
        if separator not in (",", "]") or not separator:
            found = repr(separator) if separator else "the file's end"
            raise ValueError(f"{found} where a comma or the list's end was expected")
        place = _behind_blanks(text, place + 1)
    if text[place:].strip(BLANK):
        raise ValueError(BEHIND)


def _element(text: str, place: int) -> tuple[Any, int]:
    """A value and where it ends."""
    try:
        value, end = _STRICT.raw_decode(text, place)
        _refuse_half_pairs(text[place:end], value)
        return value, end
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(_explain(error, text)) from None
    except ValueError as error:
        return error, _end(text, place)


def _end(text: str, place: int) -> int:
    """Where a value ends that is JSON to Python."""
    try:
        return _LENIENT.raw_decode(text, place)[1]
    except (ValueError, RecursionError) as error:
        raise ValueError(_explain(error, text)) from None


def _explain(error: Exception, text: str) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    if error.pos >= len(text.rstrip(BLANK)):
        return f"{BREAKS_OFF} at column {error.colno}"
    what = error.msg.removesuffix(" at")  # as in "Unterminated string starting at"
    return f"{what} at column {error.colno}" + (f" of line {error.lineno}" if error.lineno > 1 else "")


def _behind_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place] in BLANK:
        place += 1
    return place


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:40]!r} twice in one object")
    return found


def _no_number(name: str) -> None:
    if name == "NaN":
        return
    raise ValueError(f"{name}, which JSON has no word for")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:20]}, which is too large")
    return value


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ValueError(f"a number of {len(digits)} digits") from None


def _refuse_half_pairs(text: str, value: Any) -> None:
    """Raise where a text inside a value is no Unicode; looked at only where its source may have made it so."""
    if HALF.search(text) is None:
        return
    for each in _texts(value):
        try:
            each.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(each[error.start]):04x}"
            raise ValueError(f"half a character, {half}, at character {error.start} of a text") from None


def _texts(value: Any) -> Iterator[str]:
    """All texts inside a value, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
_LENIENT = json.JSONDecoder(parse_int=float, parse_float=str)
