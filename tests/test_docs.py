"""What the documentation shows exists: snippets, links, options, tests and modules."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from documents import CARDS, DOCS, GUIDES, LINK, PAGES, README, ROOT, USED, anchors, blocks, name, prose
from remodeler.cli.app import app
from remodeler.cli.command import configs_of
from remodeler.pruning.methods import METHODS
from remodeler.runs.options import Spec, specs

PACKAGE = ROOT / "src" / "remodeler"
PRUNE = DOCS / "guides" / "prune.md"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
FOREIGN = {"--extra-index-url", "--model", "--nproc-per-node", "--prompt"}
"""Options of pip, torchrun and mlx_lm."""


@cache
def commands() -> dict[str, tuple[Spec, ...]]:
    """The verbs, ``audit train`` a part of one, with their options."""
    return {verb: specs(kind) for verb, kind in configs_of(app)}


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """The verb that a line names, with its part, and the rest; what names no part of ``audit`` is its ``run``."""
    for verb, used in ((" ".join(words[:2]), 2), (words[0], 1), (f"{words[0]} run", 1)):
        if verb in commands():
            return verb, words[used:]
    raise AssertionError(f"{words[0]} is no verb")


def flags(verb: str) -> set[str]:
    """The options of a verb on the command line."""
    shown = [spec for spec in commands()[verb] if not (spec.option.positional or spec.option.python_only)]
    return {flag for spec in shown for flag in spec.flags}


def options() -> set[str]:
    """Every option of every verb, and their opposites."""
    named = {flag for verb in commands() for flag in flags(verb)}
    return named | {f"--no-{flag[2:]}" for flag in named} | {"--help", "--version", "--install-completion"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_snippets_are_python(page: Path) -> None:
    for snippet in blocks(page, "python"):
        ast.parse(snippet)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_imports_in_snippets_exist(page: Path) -> None:
    """Names of this package only; ``import remodeler.x`` needs the file alone."""
    for snippet in blocks(page, "python"):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Import):
                assert all(module_exists(alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("remodeler"):
                assert module_exists(str(node.module)), ast.unparse(node)
                assert {alias.name for alias in node.names} <= defined(str(node.module)), ast.unparse(node)


def module_file(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def module_exists(module: str) -> bool:
    return not module.startswith("remodeler") or module_file(module).exists()


def defined(module: str) -> set[str]:
    tree = ast.parse(module_file(module).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", USED, ids=name)
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
    ("evaluate", "evaluate"),
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
    text = prose(DOCS / "guides" / f"{page}.md")
    assert {option for option in flags(verb) if not re.search(rf"{option}(?![\w-])", text)} == set()


def shown(page: Path) -> list[list[str]]:
    """The command lines of a page that start with ``remodel``, as words; those with placeholders are left out."""
    text = "\n".join(blocks(page, "")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(r"^(?:\$ )?remodel (\w+ [^\[\n]*)$", text, re.M)]


@pytest.mark.parametrize("page", USED, ids=name)
def test_commands_that_are_shown_are_understood(page: Path) -> None:
    """Every line that starts with ``remodel`` parses: verbs, options and the kind of their values."""
    lines = shown(page)
    assert len(lines) >= 3 or page == DOCS / "methods" / "index.md"
    for line in lines:
        verb, words = command_of(line)
        app.parse_args([*verb.split(), *words], exit_on_error=False, print_error=False)


def test_methods_of_the_table_are_those_of_the_code() -> None:
    page = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    section = page.partition("## Pruning methods")[2].partition("\n\n*Iterative*")[0]
    assert re.findall(r"^\| `(\w[\w-]*)` \|", section, re.MULTILINE) == list(METHODS)


def test_tests_named_in_papers_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "methods" / "papers.md").read_text(encoding="utf-8")))
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert {test for test in named if f"def {test}(" not in written} == set()


def test_messages_of_the_troubleshooting_table_are_in_the_code() -> None:
    """What stands between the dots of a quoted message stands in the code; but one is transformers' own."""
    section = prose(PRUNE).partition("## Errors")[2].partition("## Limitations")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    quoted = [piece.strip() for cell in cells for text in re.findall(r"`([^`]+)`", cell) for piece in text.split("...")]
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    said = re.sub(r'"\n\s*f?"', "", code)
    strange = {piece for piece in quoted if piece not in said}
    assert strange == {"contains custom code which must be executed"}


def test_files_that_contributors_are_shown_exist() -> None:
    """Paths in backticks, from the root or from the package."""
    text = "".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "contributing").glob("*.md")))
    named = set(re.findall(r"`([\w./-]*/[\w-]+\.(?:py|md|toml)|[\w-]+/)`", text))
    assert len(named) > 15
    assert {path for path in named if not (ROOT / path).exists() and not (PACKAGE / path).exists()} == set()


def test_the_tree_shows_the_folders_of_the_package() -> None:
    page = (DOCS / "contributing" / "architecture.md").read_text(encoding="utf-8")
    tree = page.partition("src/remodeler/\n")[2].partition("\ntests/")[0]
    shown = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    assert shown == {path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("_")}


# The form of the pages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=name)
def test_prose_lines_are_short(page: Path) -> None:
    """Tables and lines with an address may be longer."""
    lines = prose(page).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|") and "://" not in line] == []


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_a_guide_has_its_parts(page: Path) -> None:
    """Three commands or more and the Python API come first, then how to choose; errors and limitations last."""
    text = page.read_text(encoding="utf-8")
    start = text.partition("\n## ")[0]
    assert start.count("\nremodel ") >= 3
    assert text.count("\nimport remodeler as rm\n") == start.count("\nimport remodeler as rm\n") == 1
    titles = re.findall(r"^## (.*)$", prose(page), re.MULTILINE)
    assert "How to choose" in titles
    assert titles[-2:] == ["Errors", "Limitations"]


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8")) < 7000
