"""Fill the page of the command line with every verb, argument and option (a hook of mkdocs).

``mkdocs build`` runs :func:`on_page_markdown` for each page; a page that holds ``MARKER`` gets the reference in its
place. Where the options come from is the business of :func:`commands` alone.
"""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

MARKER = "<!-- command line: written here by scripts/command_line_page.py -->"


@dataclass(frozen=True)
class Parameter:
    """An argument, or an option."""

    names: tuple[str, ...]
    """``--protect`` and ``--no-protect``; of an argument its placeholder."""
    kind: str
    """``text``, ``number``, ``integer`` or ``path``; empty for a flag."""
    help: str
    default: str = ""
    required: bool = False
    repeated: bool = False
    panel: str = ""


@dataclass(frozen=True)
class Command:
    """A verb, or a step of one."""

    name: str
    help: str
    arguments: tuple[Parameter, ...]
    options: tuple[Parameter, ...]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference where a page asks for it."""
    return markdown.replace(MARKER, reference(commands())) if MARKER in markdown else markdown


# The source -----------------------------------------------------------------------------------------------------------


def commands() -> list[Command]:
    """Every verb of ``remodel`` in the order of its help, from the configs of its verbs."""
    from remodeler.cli.app import app
    from remodeler.cli.command import configs_of

    return [_command(name, kind) for name, kind in configs_of(app)]


def _command(name: str, kind: type) -> Command:
    from remodeler.cli.command import panel_order
    from remodeler.runs.options import specs

    shown = [spec for spec in specs(kind) if not spec.option.python_only]
    shown.sort(key=lambda spec: panel_order(kind)[spec.option.panel])
    known = {spec.name: spec for spec in shown}
    arguments = tuple(_parameter(spec, known) for spec in shown if spec.option.positional)
    options = tuple(_parameter(spec, known) for spec in shown if not spec.option.positional)
    return Command(name, inspect.getdoc(kind) or "", arguments, options)


def _parameter(spec: Any, known: dict[str, Any]) -> Parameter:
    from remodeler.cli.command import flagged, has_opposite

    words = flagged(spec.help, known)
    parts = get_args(spec.type) if get_origin(spec.type) in (Union, UnionType) else (spec.type,)
    flag = bool in parts
    kinds = {int: "integer", float: "number", Path: "path"}
    kind = next((kinds[each] for each in parts if each in kinds and spec.option.read is None), "text")
    negated = (f"--no-{spec.flags[0][2:]}",) if has_opposite(spec) else ()
    return Parameter(
        names=(spec.name,) if spec.option.positional else (*spec.flags, *negated),
        kind="" if flag else kind,
        help=" ".join([words, *([f"One of {', '.join(spec.option.choices)}."] if spec.option.choices else [])]),
        default=_default(spec, negated),
        required=spec.required,
        repeated=get_origin(spec.type) is tuple and (spec.option.read is None or spec.option.repeated),
        panel=spec.option.panel,
    )


def _default(spec: Any, negated: tuple[str, ...]) -> str:
    from remodeler.cli.command import written_default

    if spec.required or spec.default is False:
        return ""
    if spec.default in (None, ()):
        return str(spec.option.default)
    if spec.default is True:
        return f"`{spec.flags[0]}`"
    return f"`{written_default(spec, spec.default)}`"


# The page -------------------------------------------------------------------------------------------------------------


def reference(verbs: Sequence[Command]) -> str:
    """The page as Markdown: a heading for every verb, a table for every group of its options."""
    return "\n\n".join(map(section, verbs))


def section(command: Command) -> str:
    """One verb."""
    needed = [f"{each.names[0]} {each.kind.upper()}" for each in command.options if each.required]
    usage = " ".join(["remodel", command.name, *map(_placeholder, command.arguments), *needed, "[options]"])
    parts = [f"## remodel {command.name}", f"```\n{usage}\n```", _paragraphs(command.help)]
    if command.arguments:
        parts.append(_table("Argument", command.arguments))
    ordered = sorted(command.options, key=lambda each: _order(command, each.panel))
    for panel, inner in groupby(ordered, key=lambda each: each.panel):
        parts.append(_table(panel or "Option", tuple(inner)))
    return "\n\n".join(part for part in parts if part)


def _order(command: Command, panel: str) -> int:
    return [each.panel for each in command.options].index(panel)


def _placeholder(argument: Parameter) -> str:
    name = argument.names[0].upper() + ("..." if argument.repeated else "")
    return name if argument.required else f"[{name}]"


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(each.split()) for each in text.split("\n\n"))


def _table(title: str, parameters: Sequence[Parameter]) -> str:
    return "\n".join([f"| {title} | Value | Default | Meaning |", "|---|---|---|---|", *map(_row, parameters)])


def _row(each: Parameter) -> str:
    names = ", ".join(f"`{name}`" for name in (each.names if each.names[0].startswith("-") else [_placeholder(each)]))
    kind = each.kind + (", repeatable" if each.repeated else "")
    default = "required" if each.required else each.default
    text = re.sub(r"([|[<])", r"\\\1", " ".join(each.help.split()))  # no cell, link or tag
    return f"| {names} | {kind} | {default} | {text} |"
