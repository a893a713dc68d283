"""What the documentation shows exists: snippets, links, options, tests and modules."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from remodeler.cli.app import app
from remodeler.pruning.methods import METHODS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "remodeler"
README, PRUNE, AUDIT = ROOT / "README.md", ROOT / "docs" / "prune.md", ROOT / "docs" / "audit.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
FOREIGN = {"--extra-index-url", "--nproc-per-node", "--strict"}
"""Options of pip, torchrun and mypy."""


def ids(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands() -> dict[str, Any]:
    """The verbs as click commands, ``audit train`` a part of one; ``Any``, since typer may bring a click of its own."""
    group: Any = typer.main.get_command(app)
    parts = {name: getattr(command, "commands", {"": command}) for name, command in group.commands.items()}
    return {f"{name} {part}".strip(): command for name, inner in parts.items() for part, command in inner.items()}


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """The verb that a line names, with its part, and the rest; what names no part of ``audit`` is its ``run``."""
    for name, used in ((" ".join(words[:2]), 2), (words[0], 1), (f"{words[0]} run", 1)):
        if name in commands():
            return name, words[used:]
    raise AssertionError(f"{words[0]} is no verb")


def options() -> set[str]:
    """Every option of every verb."""
    given = [parameter for command in commands().values() for parameter in command.params]
    named = {name for parameter in given for name in [*parameter.opts, *parameter.secondary_opts]}
    return named | {"--help", "--version"}


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_python_snippets_are_python(page: Path) -> None:
    for snippet in blocks(page, "python"):
        ast.parse(snippet)


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_imports_in_snippets_exist(page: Path) -> None:
    """Names of this package only; ``import remodeler.x`` needs the file alone."""
    for snippet in blocks(page, "python"):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Import):
                assert all(module_exists(alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("remodeler"):
                assert module_exists(str(node.module)), ast.unparse(node)
                assert {alias.name for alias in node.names} <= defined(str(node.module)), ast.unparse(node)


def module_file(name: str) -> Path:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def module_exists(name: str) -> bool:
    return not name.startswith("remodeler") or module_file(name).exists()


def defined(name: str) -> set[str]:
    tree = ast.parse(module_file(name).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", [README, PRUNE, AUDIT], ids=["README.md", "prune.md", "audit.md"])
def test_options_that_are_named_exist(page: Path) -> None:
    named = set(OPTION.findall(page.read_text(encoding="utf-8")))
    assert named - FOREIGN <= options()


PAGE_OF = [
    ("prune", "prune"),
    ("cut", "prune"),
    ("recover", "recover"),
    ("merge", "merge"),
    ("fuse", "fuse"),
    ("export", "export"),
    ("report", "evaluate"),
    ("publish", "evaluate"),
]
PAGE_OF += [
    (f"align {step}", "align")
    for step in ("train-reviser", "revise", "evolve", "baseline", "run", "answer", "judge", "compare")
]
PAGE_OF += [(f"audit {part}", "audit") for part in ("run", "lexicon", "train", "predict", "vote", "score", "convert")]


@pytest.mark.parametrize(("verb", "page"), PAGE_OF)
def test_every_option_of_a_verb_is_explained(verb: str, page: str) -> None:
    text = prose(ROOT / "docs" / f"{page}.md")
    given = {name for parameter in commands()[verb].params for name in parameter.opts if name.startswith("--")}
    assert {name for name in given if not re.search(rf"{name}(?![\w-])", text)} == set()


def test_commands_that_are_shown_are_understood() -> None:
    """Every line that starts with ``remodel`` parses: verbs, options and the kind of their values."""
    shown = "\n".join(block for page in (README, PRUNE, AUDIT) for block in blocks(page, ""))
    lines = [
        line.split("#")[0].split() for line in re.findall(r"^(?:\$ )?remodel (\w+ [^\[\n]*)$", shown, re.MULTILINE)
    ]
    assert len(lines) >= 6
    for line in lines:
        verb, words = command_of(line)
        commands()[verb].make_context(verb, words)


def test_methods_of_the_table_are_those_of_the_code() -> None:
    section = README.read_text(encoding="utf-8").partition("## Methods")[2].partition("\n\n| `--unit`")[0]
    assert re.findall(r"^\| `(\w[\w-]*)` \|", section, re.MULTILINE) == list(METHODS)


def test_tests_named_in_papers_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")))
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in written} == set()


def test_messages_of_the_troubleshooting_table_are_in_the_code() -> None:
    """What stands between the dots of a quoted message stands in the code; but one is transformers' own."""
    section = prose(PRUNE).partition("## Troubleshooting")[2]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    quoted = [piece.strip() for cell in cells for text in re.findall(r"`([^`]+)`", cell) for piece in text.split("...")]
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    said = re.sub(r'"\n\s*f?"', "", code)
    strange = {piece for piece in quoted if piece not in said}
    assert strange == {"contains custom code which must be executed"}
