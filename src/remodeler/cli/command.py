"""Commands made of configs: every option of the command line is declared on the config of its verb, and only there."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from inspect import Parameter as Place
from inspect import Signature, cleandoc
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from cyclopts import App, Group, Parameter

from remodeler.cli.screen import notes_as
from remodeler.errors import InputError
from remodeler.runs.options import Option, Spec, build, specs
from remodeler.runs.types import parts_of

Config = TypeVar("Config")
MARKED = re.compile(r"`([a-z_]+)(?:=((?:'[^']*'|\"[^\"]*\"|[^`'\"])*))?`")
"""An option as messages of the library name it: `` `ratio` `` or `` `method='ties'` ``."""
ARGUMENTS = "Arguments"
MOST_CHOICES = 16
"""So many choices are listed by help; of more the first ones."""
_every: dict[str, Spec] = {}
"""Options of all verbs by name, for messages of one verb that name an option of another."""


def add_command(app: App, name: str, kind: type[Config], run: Callable[[Config], object]) -> None:
    """Add a verb: its options are those of a config class, its help is the docstring of the class.

    Args:
        app: the application, or a group of it.
        name: of the verb.
        kind: the config class.
        run: is given the config.
    """

    def command(*given: Any, **options: Any) -> None:
        with_flags(kind, lambda: run(build(kind, _by_option(kind, given, options))))

    command.__signature__ = Signature([_place(kind, spec) for spec in _in_order(kind)])  # type: ignore[attr-defined]
    command.__doc__, command.__name__ = cleandoc(kind.__doc__ or ""), name
    command.config = kind  # type: ignore[attr-defined]
    for spec in specs(kind):
        _every.setdefault(spec.name, spec)
    app.command(command, name=name, usage=_usage(app, name, kind), sort_key=len(list(app)), help_epilogue="")


def configs_of(app: App, words: tuple[str, ...] = ()) -> Iterator[tuple[str, type]]:
    """The verbs of an application with their configs; those of a group with its name before them."""
    for name in app:
        if not name.startswith("-"):
            found = getattr(app[name].default_command, "config", None)
            own = [(" ".join((*words, name)), found)] if found is not None else []
            yield from list(configs_of(app[name], (*words, name))) or own


def add_group(app: App, name: str, words: str) -> App:
    """Add a group of verbs.

    Args:
        app: the application.
        name: of the group.
        words: its help.
    """
    group = App(name=name, help=words, sort_key=len(list(app)), help_epilogue="")
    app.command(group)
    return group


def with_flags(kind: type, action: Callable[[], object]) -> None:
    """Do something; what it refuses, and what it notes, names the flags of a command line instead of fields."""
    known = _every | _by_name(kind)
    try:
        with notes_as(lambda message: flagged(message, known)):
            action()
    except InputError as error:
        raise InputError(flagged(str(error), known)) from error


def flagged(message: str, known: dict[str, Spec]) -> str:
    """A message of the library in the words of the command line."""

    def flag(match: re.Match[str]) -> str:
        spec, value = known.get(match[1]), match[2]
        if spec is None:
            return match[0]
        if spec.option.positional:
            return match[1].upper()
        name = spec.flags[0]
        if value in ("True", "False"):
            return name if value == "True" else f"--no-{name.removeprefix('--')}"
        return name if value is None else f"{name} {value.strip(chr(39) + chr(34))}"

    return MARKED.sub(flag, message)


@cache
def _by_name(kind: type) -> dict[str, Spec]:
    """The options of a config by name."""
    return {spec.name: spec for spec in specs(kind)}


def _usage(app: App, name: str, kind: type) -> str:
    """The first line of help: what must be given, arguments first, as examples have it."""
    group = [each for each in app.name if each != "remodel"]
    words = [placeholder(spec) for spec in _in_order(kind) if spec.option.positional]
    words += [
        f"{spec.flags[0]} {_value(spec)}" for spec in _in_order(kind) if spec.required and not spec.option.positional
    ]
    return " ".join(["Usage: remodel", *group, name, *words, "[OPTIONS]"])


def placeholder(spec: Spec) -> str:
    """A positional argument in a line of usage: ``MODEL``, ``[MODELS...]``."""
    name = spec.name.upper() + ("..." if get_origin(spec.type) is tuple else "")
    return name if spec.required else f"[{name}]"


def _value(spec: Spec) -> str:
    """What stands for the value of an option."""
    names = {int: "INT", float: "FLOAT", Path: "PATH"}
    return next((names[each] for each in parts_of(_cli_type(spec)) if each in names), "STR")


def _by_option(kind: type, given: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """What was typed, by the names of options; positional arguments come in their order."""
    names = [spec.name for spec in _in_order(kind) if spec.option.positional]
    return dict(zip(names, given, strict=False)) | options


def _in_order(kind: type) -> list[Spec]:
    """Positional arguments first, then what must be given, then the rest by panel as declared."""
    shown = [spec for spec in specs(kind) if not spec.option.python_only]
    return sorted(shown, key=lambda spec: (not spec.option.positional, not spec.required))


def _place(kind: type, spec: Spec) -> Place:
    where = Place.POSITIONAL_ONLY if spec.option.positional else Place.KEYWORD_ONLY
    default = Place.empty if spec.required else _typed_default(spec)
    return Place(spec.name, where, default=default, annotation=Annotated[_cli_type(spec), _parameter(kind, spec)])


def _typed_default(spec: Spec) -> Any:
    kept = isinstance(spec.default, str) or spec.option.repeated or spec.option.read is None
    return spec.default if kept else None


def _cli_type(spec: Spec) -> Any:
    """What the command line reads: a text where the option has a reader of its own, or takes objects in Python."""
    if get_origin(spec.type) is tuple and (spec.option.repeated or spec.option.read is None):
        return tuple[str, ...] if Any in get_args(spec.type) else spec.type
    if spec.option.read is not None or spec.type is Any:
        return str if spec.required else str | None
    parts = [each for each in parts_of(spec.type) if each in (int, float, bool, Path) or get_origin(each) is tuple]
    kind = parts[0] if parts else str
    return kind | None if NoneType in parts_of(spec.type) else kind


def _parameter(kind: type, spec: Spec) -> Parameter:
    # A choice is checked by the config, with the same words in Python: help only lists it.
    words = [flagged(spec.help.rstrip(), _by_name(kind)), *_choices(spec.option, spec.help), *_default(spec)]
    return Parameter(
        name=None if spec.option.positional else list(spec.flags),
        help=" ".join(filter(None, words)),
        group=ARGUMENTS if spec.option.positional else _panel(spec.option.panel, panel_order(kind)[spec.option.panel]),
        show_default=False,
        negative=None if has_opposite(spec) else (),
        consume_multiple=False,
        allow_leading_hyphen=spec.option.read is not None,
    )


def has_opposite(spec: Spec) -> bool:
    """Whether a flag has a ``--no-`` form: where it is on, or left open, without it."""
    return bool in parts_of(spec.type) and spec.default in (True, None)


def _choices(option: Option, words: str) -> list[str]:
    """The names that an option may have, where its help doesn't say them all."""
    unsaid = [each for each in option.choices if not re.search(rf"(?<![\w-]){re.escape(each)}(?![\w-])", words)]
    if not unsaid:
        return []
    shown = option.choices if len(option.choices) <= MOST_CHOICES else (*option.choices[:4], "...")
    return [f"[choices: {', '.join(shown)}]"]


def _default(spec: Spec) -> list[str]:
    value = spec.option.default if spec.default in (None, ()) else spec.default
    if spec.required or value in (None, "", ()) or value is False:
        return []
    return [f"[default: {written_default(spec, value)}]"]


def written_default(spec: Spec, value: Any) -> str:
    """A default as help writes it: shares in percent, numbers as short as they can be."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if spec.option.read is None or value >= 1 else f"{100 * value:.4g}%"
    return str(value)


FIRST = ("Output", "")
"""Panels above all others; options without one are called Options."""
LAST = ("Memory and speed", "Model")
"""Panels that most people skip."""


@cache
def panel_order(kind: type) -> dict[str, int]:
    """The panels of a verb's help, each with its place: as the config declares them, but for the first and last."""
    declared = [spec.option.panel for spec in specs(kind)]
    middle = [each for each in dict.fromkeys(declared) if each not in (*FIRST, *LAST)]
    return {panel: place for place, panel in enumerate((*FIRST, *middle, *LAST))}


@cache
def _panel(name: str, place: int) -> Group:
    """A heading of help."""
    return Group(name or "Options", sort_key=place)
