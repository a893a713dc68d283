"""The house keeps its shape: modules are small and documented, and the map draws what exists.

That imports point down is the contract in ``pyproject.toml``, which ``make lint`` holds them to.
"""

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from remodeler.model.families import CONFIGS, FAMILIES

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "remodeler"
MAP = REPOSITORY / "docs" / "contributing" / "architecture.md"

MODULES = sorted(PACKAGE.rglob("*.py"))
LIGHT = (
    "errors",
    "cli.app",
    "runs.records",
    "runs.folders",
    "runs.removals",
    "model.families",
    "data.rows",
    "data.prompts",
)
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "scipy")
FILE_LINES, FUNCTION_LINES, MEDIAN_LINES = 300, 60, 10
# A line of a tree in a document: indentation, name, description.
TREE_LINE = re.compile(r"^( *)(\S+)(?: {2,}\S.*)?$")


def dotted(path: Path) -> str:
    """`remodeler.pruning.search.loop` for its file, `remodeler.pruning` for the `__init__.py` beside it."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of the package that are imported anywhere in it, inside functions too."""
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
        yield from (name for name in names if name.split(".")[0] == "remodeler")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def fenced(heading: str) -> list[str]:
    """The lines of the first code block under a heading of the map."""
    section = MAP.read_text(encoding="utf-8").split(f"## {heading}", 1)[1]
    return section.split("```", 2)[1].splitlines()[1:]


def tree() -> set[str]:
    """Every file and folder that the map's tree names, relative to the repository."""
    found: set[str] = set()
    folders: list[str] = []
    for indent, name in (match.groups() for line in fenced("The tree") if (match := TREE_LINE.match(line))):
        del folders[len(indent) // 2 :]
        found.add("".join(folders) + name)
        folders += [name] if name.endswith("/") else []
    return found


def test_the_modelling_file_stands_alone() -> None:
    """It is copied beside the weights, where the package may be absent: what it imports of it is behind a condition."""
    tree = parsed(PACKAGE / "packed.py")
    conditional = {name for node in tree.body if isinstance(node, ast.If) for name in imported(node)}
    assert set(imported(tree)) == conditional


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_is_documented_and_small(path: Path) -> None:
    assert ast.get_docstring(parsed(path)), "no module docstring"
    assert (path.parent / "__init__.py").exists(), "its folder has no __init__.py"
    length = path.read_text(encoding="utf-8").count("\n")
    assert length <= FILE_LINES


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_functions_are_short_and_say_what_they_return(path: Path) -> None:
    long = {function.name: lines(function) for function in functions(path) if lines(function) > FUNCTION_LINES}
    silent = [function.name for function in functions(path) if function.returns is None]
    assert (long, silent) == ({}, [])


def test_half_of_all_functions_are_very_short() -> None:
    assert statistics.median(lines(function) for path in MODULES for function in functions(path)) < MEDIAN_LINES


def test_the_map_draws_every_room() -> None:
    rooms = {path.parent.relative_to(REPOSITORY).as_posix() + "/" for path in MODULES} - {"src/remodeler/"}
    drawn = {path for path in tree() if path.startswith("src/remodeler/") and path.endswith("/")}
    assert drawn - {"src/remodeler/demo_model/", "src/remodeler/"} == rooms


def test_what_the_map_draws_exists() -> None:
    assert [path for path in tree() if not (REPOSITORY / path).exists()] == []


def test_the_map_draws_the_layers_of_the_contract() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        contracts = {each["name"]: each for each in tomllib.load(file)["tool"]["importlinter"]["contracts"]}
    assert fenced("Layers") == contracts["Layers"]["layers"]


def test_families_are_named_in_their_table_alone() -> None:
    """What other runtimes call them is a fact of those, and stands where their files are read or written."""
    runtimes = ("exporting", "model/gguf", "model/files/gguf")
    apart = {PACKAGE / "model" / "families.py", *(file for room in runtimes for file in (PACKAGE / room).rglob("*.py"))}
    known = {*FAMILIES, *CONFIGS}
    named = {
        (dotted(path), node.value)
        for path in MODULES
        if path not in apart
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and node.value in known
    }
    assert named == set()


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_fast_and_without_torch(module: str) -> None:
    """`remodel --help` stays instant. Processor time, since the machine may be busy."""
    code = (
        f"import sys, time, remodeler.{module}\n"
        f"print(time.process_time(), *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    seconds, *heavy = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert heavy == []
    assert float(seconds) < 1.0
