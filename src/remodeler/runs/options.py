"""Options: declared once, on the frozen config of a verb; the command line and the Python functions are made of them.

A config is a frozen dataclass. A field is an option, or another config whose options several verbs share. The type
says what a value is, ``Annotated[..., Option(...)]`` what the type can't say, the docstring below a field is its help.
Values are checked when a config is made, by whomever: errors name fields, and the command line turns these into flags
(see :func:`remodeler.errors.option`).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from remodeler.errors import InputError, option
from remodeler.runs.docstrings import field_docstrings
from remodeler.runs.types import refuse_other_type

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What the type of an option can't say."""

    panel: str = ""
    """Heading under which help shows it."""
    choices: tuple[str, ...] = ()
    """Names it may have; a value that is no text (a function, say) is not looked up."""
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    """A number lies in [low, high] and in (above, below)."""
    help: str = ""
    """For types that several configs share; else the docstring below the field."""
    flags: tuple[str, ...] = ()
    """Spellings on the command line other than the field's name."""
    positional: bool = False
    read: Callable[[str], Any] | None = None
    """From the text on a command line (and a text in Python) to the value."""
    repeated: bool = False
    """Given once or several times: the value is a tuple, of which the reader reads each."""
    default: str = ""
    """The default in words, where its value doesn't say it."""
    required: bool = False
    """The command line must have it, although it has a default in Python."""
    python_only: bool = False
    """No option of the command line."""
    command_only: bool = False
    """No option of the Python function."""


@dataclass(frozen=True)
class Spec:
    """An option as a config declares it."""

    name: str
    path: tuple[str, ...]
    """Names of the fields that lead to it, its own last."""
    type: Any
    option: Option
    help: str
    default: Any
    """``MISSING`` where it must be given."""

    @property
    def flags(self) -> tuple[str, ...]:
        """How a command line spells it, the first spelling being the one in messages."""
        return self.option.flags or (f"--{self.name.replace('_', '-')}",)

    @property
    def required(self) -> bool:
        """Whether a command line must have it."""
        return self.default is MISSING or self.option.required


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Make a frozen dataclass of keywords whose values are read and checked when it is made."""
    own = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        for spec in own_specs(type(self)):
            _check(self, spec)
        if own is not None:
            own(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def _check(owner: Any, spec: Spec) -> None:
    """Read a value that was given as text where the option has a reader, and refuse what is out of range."""
    value = given = getattr(owner, spec.name)
    if get_origin(spec.type) is tuple and (spec.option.repeated or spec.option.read is None):
        value = tuple(_read(spec, each) for each in (given if isinstance(given, list | tuple) else [given]))
    else:
        value = tuple(given) if get_origin(spec.type) is tuple and isinstance(given, list) else _read(spec, given)
    if value is not given:
        object.__setattr__(owner, spec.name, value)
    refuse_other_type(spec.name, spec.type, value)
    for each in value if spec.option.repeated else [value]:
        refuse(spec, each)


def _read(spec: Spec, text: Any) -> Any:
    kinds = (spec.type, *get_args(spec.type))
    if isinstance(text, Path) and str in kinds and Path not in kinds:
        return str(text)
    if not isinstance(text, str):
        return text
    if spec.option.read is None:
        return Path(text) if Path in kinds else text
    try:
        return spec.option.read(text)
    except ValueError as error:
        raise InputError(f"{option(spec.name, text)}: {error}") from None


def refuse(spec: Spec, value: Any) -> None:
    """Raise for a value that an option can't have."""
    choices = spec.option.choices
    if isinstance(value, str) and choices and value not in choices:
        close = get_close_matches(value, choices, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"{option(spec.name)} {value!r} is unknown: {hint}choose {', '.join(choices)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _refuse_number(spec, value)


def _refuse_number(spec: Spec, value: float) -> None:
    limits = spec.option
    if not math.isfinite(value):
        raise InputError(f"{option(spec.name)} must be a finite number (got {value})")
    if not (limits.low <= value <= limits.high and limits.above < value < limits.below):
        raise InputError(f"{option(spec.name)} must be {range_in_words(limits)} (got {value:g})")


def range_in_words(limits: Option) -> str:
    """The range of a number, in words: ``>= 1``, ``> 0 and < 1``."""
    bounds = {">=": limits.low, ">": limits.above, "<=": limits.high, "<": limits.below}
    return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if math.isfinite(bound))


# What a config declares -----------------------------------------------------------------------------------------------


def specs(cls: type) -> tuple[Spec, ...]:
    """All options of a config, those of the configs in it too, in the order in which they are declared."""
    return _specs(cls)


@cache
def _specs(cls: type) -> tuple[Spec, ...]:
    return tuple(_walk(cls, (), None))


def own_specs(cls: type) -> Iterator[Spec]:
    """The options among a config's own fields."""
    return (spec for spec in specs(cls) if len(spec.path) == 1)


def _walk(cls: type, path: tuple[str, ...], given: Any) -> Iterator[Spec]:
    """Options of a config; where a verb gives it as a default, ``given``, its values are the defaults."""
    hints, helps = get_type_hints(cls, include_extras=True), field_docstrings(cls)
    for each in fields(cls):
        kind, option = _option_of(hints[each.name])
        default = _default(each) if given is None else getattr(given, each.name)
        if is_dataclass(kind):
            inner = None if default is MISSING else default
            yield from _walk(kind, (*path, each.name), inner)  # type: ignore[arg-type]
        else:
            words = helps.get(each.name) or option.help
            yield Spec(each.name, (*path, each.name), kind, option, words, default)


def _option_of(hint: Any) -> tuple[Any, Option]:
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    given = next((note for note in notes if isinstance(note, Option)), Option())
    names = next((get_args(each) for each in (kind, *get_args(kind)) if get_origin(each) is Literal), given.choices)
    return kind, replace(given, choices=names)


def _default(each: Field[Any]) -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default


# From values to a config and back -------------------------------------------------------------------------------------


def build(cls: type[T], given: Mapping[str, Any]) -> T:
    """A config from flat values by name, each put where it belongs.

    Raises:
        InputError: for a name that is no option of it, and for a value that an option can't have.
    """
    known = {spec.name: spec for spec in specs(cls)}
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {option(close[0])}?" if close else f"options are {', '.join(known)}"
            raise InputError(f"{option(name)} is unknown here: {hint}")
    _refuse_missing(known.values(), given)
    tree: dict[str, Any] = {}
    for name, value in given.items():
        *outer, last = known[name].path
        place = tree
        for step in outer:
            place = place.setdefault(step, {})
        place[last] = value
    return _make(cls, tree, None)


def _refuse_missing(known: Any, given: Mapping[str, Any]) -> None:
    missing = [spec.name for spec in known if spec.default is MISSING and spec.name not in given]
    if missing:
        raise InputError(f"{', '.join(map(option, missing))} must be given")


def _make(cls: type[T], tree: Mapping[str, Any], base: T | None) -> T:
    """A config with some values; the rest is that of ``base``, the verb's own defaults, or of the class."""
    hints, parts = get_type_hints(cls), dict(tree)
    for each in fields(cls):  # type: ignore[arg-type]
        if each.name in tree and is_dataclass(hints[each.name]):
            default = _default(each) if base is None else getattr(base, each.name)
            parts[each.name] = _make(hints[each.name], tree[each.name], None if default is MISSING else default)
    own = None if base is None or base == _plain(cls) else base  # then the class decides, knowing what was given
    return cls(**parts) if own is None else replace(own, **parts)  # type: ignore[type-var]


def _plain(cls: type[T]) -> T | None:
    """A config of nothing but defaults, where it has them all."""
    return None if any(_default(each) is MISSING for each in fields(cls)) else cls()  # type: ignore[arg-type]


def flat(made: Any) -> dict[str, Any]:
    """The values of a config by name, as a record holds them: paths as text."""
    found: dict[str, Any] = {}
    for spec in specs(type(made)):
        value = made
        for step in spec.path:
            value = getattr(value, step)
        found[spec.name] = as_recorded(value)
    return found


def as_recorded(value: Any) -> Any:
    """A value as a record holds it: a path as text; a loaded model and a function by their names."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return tuple(map(as_recorded, value))
    if callable(value) and not hasattr(value, "anatomy"):
        return getattr(value, "__name__", type(value).__name__)
    return value.name if hasattr(value, "anatomy") else value


# Readers of texts -----------------------------------------------------------------------------------------------------


def listed(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(each.strip() for each in text.split(",") if each.strip())
