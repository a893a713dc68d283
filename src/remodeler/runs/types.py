"""Whether a value is of the type that an option declares."""

from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from remodeler.errors import InputError, option

NAMED: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool)),
    bool: ("True or False", lambda value: isinstance(value, bool)),
    str: ("a text", lambda value: isinstance(value, str)),
    Path: ("a path", lambda value: isinstance(value, Path)),
    NoneType: ("None", lambda value: value is None),
}
"""By plain type: what to call it, and whether a value is one. ``True`` is no number, whatever Python says."""


def refuse_other_type(name: str, kind: Any, value: Any) -> None:
    """Raise for a value that an option can't take.

    Args:
        name: of the option.
        kind: a plain type, a tuple of one, a ``Literal``, a class, or a union of these; ``Any`` takes everything.
        value: after it was read, where it was given as text.

    Raises:
        InputError: that says what was expected.
    """
    parts = parts_of(kind)
    if any(fits(each, value) for each in parts):
        return
    words = " or ".join(_words(each) for each in parts if each is not NoneType)
    raise InputError(f"{option(name)} must be {words} (got {_shown(value)})")


def fits(kind: Any, value: Any) -> bool:
    """Whether a value is of a type that is no union."""
    if kind is Any:
        return True
    if kind in NAMED:
        return NAMED[kind][1](value)
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, str)  # which one, is asked with the other choices
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits_any(get_args(kind)[0], each) for each in value)
    return isinstance(value, origin or kind)


def _fits_any(kind: Any, value: Any) -> bool:
    return any(fits(each, value) for each in parts_of(kind))


def parts_of(kind: Any) -> tuple[Any, ...]:
    """The types that a union is of; of any other type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list, each {' or '.join(map(_words, parts_of(get_args(kind)[0])))}"
    if get_origin(kind) is Literal:
        return "a text"
    return NAMED[kind][0] if kind in NAMED else f"a {getattr(get_origin(kind) or kind, '__name__', kind)}"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | bool | int | float | NoneType) else f"a {type(value).__name__}"
