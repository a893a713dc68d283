"""Fill the page of the command line with every verb, argument and option (a hook of mkdocs).

``mkdocs build`` runs :func:`on_page_markdown` for each page; a page that holds ``MARKER`` gets the reference in its
place. Where the options come from is the business of :func:`commands` alone: it reads the typer application. Another
source of options needs another such function and nothing else here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

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
    """Every verb of ``remodel`` in the order of its help, from the typer application."""
    import typer.main

    from remodeler.cli.app import app

    return list(_commands(typer.main.get_command(app), ()))


def _commands(node: Any, path: tuple[str, ...]) -> Iterator[Command]:
    for name, inner in getattr(node, "commands", {}).items():
        yield from _commands(inner, (*path, name))
    if path and not hasattr(node, "commands"):
        of_kind = {kind: [each for each in node.params if _is_option(each) is kind] for kind in (False, True)}
        found = {kind: tuple(map(_parameter, each)) for kind, each in of_kind.items()}
        yield Command(" ".join(path), node.help or "", found[False], found[True])


def _is_option(parameter: Any) -> bool:
    return parameter.opts[0].startswith("-")


def _parameter(parameter: Any) -> Parameter:
    flag = getattr(parameter, "is_flag", False)
    annotation = parameter.type_descriptor.annotation
    kinds = {"int": "integer", "float": "number", "Path": "path"}
    text, stated = _default_in_help(parameter.help or "")
    return Parameter(
        names=(*parameter.opts, *parameter.secondary_opts),
        kind="" if flag else kinds.get(getattr(annotation, "__name__", ""), "text"),
        help=text,
        default=stated or _default(parameter),
        required=parameter.required,
        repeated=parameter.multiple or parameter.nargs == -1,
        panel=getattr(parameter, "rich_help_panel", None) or "",
    )


def _default_in_help(text: str) -> tuple[str, str]:
    """A help text, and the default that it states in brackets at its end."""
    found = re.fullmatch(r"(.*?)\s*\[default: (.*)\]", text, re.DOTALL)
    return (found[1], found[2]) if found else (text, "")


def _default(parameter: Any) -> str:
    value, shown = parameter.default, parameter.show_default
    if isinstance(shown, str):
        return shown
    if value is None or not shown or value in ((), [], ""):
        return ""
    if isinstance(value, bool):
        return f"`{(parameter.opts if value else parameter.secondary_opts)[0]}`" if parameter.secondary_opts else ""
    if isinstance(value, list | tuple):
        return ", ".join(f"`{each}`" for each in value)
    return f"`{value:.4g}`" if isinstance(value, float) else f"`{value}`"


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
