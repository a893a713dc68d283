"""Defaults of options in words, where the table of a verb's methods decides them and not the option itself."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import get_annotations
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from remodeler.runs.options import Option

T = TypeVar("T")


def by_name(values: Mapping[str, Any]) -> str:
    """What differs by method, in words: ``shortened-llama 64, else 4``."""
    shown = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    ((usual, _),) = Counter(shown.values()).most_common(1)
    others: dict[str, list[str]] = {}
    for name, value in shown.items():
        if value != usual:
            others.setdefault(value, []).append(name)
    words = [f"{' and '.join(names)} {value}" for value, names in others.items()]
    return ", ".join([*words, f"else {usual}"]) if words else usual


def stated(**words: str) -> Callable[[type[T]], type[T]]:
    """State the defaults of inherited options; below :func:`remodeler.runs.options.config`, on the class that inherits.

    Args:
        words: by option the default that help shows where none was given.
    """

    def decorate(cls: type[T]) -> type[T]:
        hints = get_type_hints(cls, include_extras=True)
        given = {name: _stated(hints[name], text) for name, text in words.items()}
        cls.__annotations__ = {**given, **get_annotations(cls)}
        return cls

    return decorate


def _stated(hint: Any, text: str) -> Any:
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    found = next((note for note in notes if isinstance(note, Option)), Option())
    return Annotated[kind, replace(found, default=text)]
