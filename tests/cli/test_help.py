"""Help as somebody reads it who does not know the house: what stands where, and that it names only what is there."""

import io
import re
from functools import cache

import pytest
from rich.console import Console

from remodeler.cli.app import app
from remodeler.cli.command import MARKED, configs_of, flagged, has_opposite
from remodeler.recovery.recipes import METHODS
from remodeler.runs.options import Spec, specs

CONFIGS = dict(configs_of(app))
GROUPS = ("align", "audit")
WIDTH = 110
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"`remodel [^`]*`")
"""A command of another verb, in help."""


@cache
def help_of(words: str) -> str:
    """Help of some words, on a terminal of ``WIDTH`` columns."""
    out = io.StringIO()
    app.help_print(words.split(), console=Console(file=out, width=WIDTH, force_terminal=False))
    return out.getvalue()


@cache
def known(verb: str) -> dict[str, Spec]:
    return {spec.name: spec for spec in specs(CONFIGS[verb])}


def shown(verb: str) -> list[Spec]:
    return [spec for spec in known(verb).values() if not (spec.option.python_only or spec.option.positional)]


def rows(page: str) -> list[list[str]]:
    """The lines of each option, below each other."""
    found: list[list[str]] = []
    for line in (line.strip("│").rstrip() for line in page.splitlines() if line.startswith("│")):
        if re.match(r" [* ]? *(--|[A-Z]{3,}  )", line):
            found.append([])
        if found:
            found[-1].append(line)
    return found


@pytest.mark.parametrize("verb", CONFIGS)
def test_usage_is_the_verb_with_what_must_be_given(verb: str) -> None:
    usage = help_of(verb).strip().splitlines()[0]
    assert usage.startswith(f"Usage: remodel {verb} ")
    for spec in known(verb).values():
        name = spec.name.upper() if spec.option.positional else spec.flags[0]
        assert (f" {name}" in usage.replace("[", " ")) == (spec.required or spec.option.positional), usage


@pytest.mark.parametrize("verb", CONFIGS)
def test_no_option_takes_more_than_three_lines(verb: str) -> None:
    found = rows(help_of(verb))
    assert len(found) >= len(shown(verb))
    assert [row for row in found if len(row) > 3] == []


@pytest.mark.parametrize("verb", CONFIGS)
def test_help_names_only_options_of_its_verb(verb: str) -> None:
    flags = {flag for spec in shown(verb) for flag in spec.flags}
    flags |= {f"--no-{spec.flags[0][2:]}" for spec in shown(verb) if has_opposite(spec)}
    every = {spec.name for kind in CONFIGS.values() for spec in specs(kind)}
    for spec in known(verb).values():
        text = COMMAND.sub("", flagged(spec.help, known(verb)))
        assert set(FLAG.findall(text)) <= flags, spec.name
        assert {name for name, _ in MARKED.findall(text)} & every == set(), spec.name


@pytest.mark.parametrize("verb", CONFIGS)
def test_a_default_is_no_riddle(verb: str) -> None:
    page = help_of(verb)
    assert "by method" not in page
    assert "negated" not in page
    assert not re.search(r"default: \d+\.0\b", page)


@pytest.mark.parametrize("verb", CONFIGS)
def test_results_come_first_and_the_device_last(verb: str) -> None:
    panels = re.findall(r"^╭─ (.*?) ─+╮$", help_of(verb), re.MULTILINE)
    order = [name for name in ("Arguments", "Output", "Options") if name in panels]
    assert panels[: len(order)] == order
    assert panels[-1] == "Model" or "Model" not in panels
    assert (known(verb).get("out") is None) == ("Output" not in panels) or verb == "publish"


def test_the_hint_to_the_demo_stands_in_the_first_help_only() -> None:
    assert "remodel demo" in help_of("")
    for words in (*GROUPS, *CONFIGS):
        assert "Try it now" not in help_of(words), words


def test_verbs_stand_in_the_order_of_their_use() -> None:
    found = re.findall(r"^│ (\w+) ", help_of(""), re.MULTILINE)
    assert found == [
        *("prune", "cut", "recover", "merge", "fuse", "evaluate", "export"),
        *("align", "audit", "report", "publish", "demo"),
    ]
    for group in GROUPS:
        parts = re.findall(r"^│ ([\w-]+) ", help_of(group), re.MULTILINE)
        assert parts == [verb.split()[1] for verb in CONFIGS if verb.startswith(f"{group} ")]


def test_defaults_of_methods_are_those_of_the_table() -> None:
    options = known("recover")
    assert options["train_batch_size"].option.default == "shortened-llama 64, else 4"
    assert options["learning_rate"].option.default == "lora 0.0002, else 0.0001"
    assert options["rank"].option.default == "shortened-llama 8, else 32"
    assert options["adapters"].option.default == "yes for lora and shortened-llama, else no"
    for name, row in METHODS.items():
        words = options["epochs"].option.default
        assert f"{row.epochs:g}" in words, name


def test_who_looks_for_the_cache_finds_it() -> None:
    assert "KV cache" in " ".join(help_of("prune").replace("│", " ").split())
