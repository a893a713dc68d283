"""The house keeps its shape: imports point down, modules are small and documented, the map names what exists."""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "remodeler"
MAP = REPOSITORY / "docs" / "architecture.md"

VERBS = ("pruning", "exporting", "merging", "fusion", "alignment", "auditing", "evaluating")
REPORT = (
    *("plot_levels", "plots", "report_steps", "report_training", "report_merge", "report_audit", "report_align"),
    *("report", "report_together"),
)
# A new module takes its place here and in docs/architecture.md. Inside a floor a module may import those to its left.
FLOORS = (
    (
        *("errors", "streams", "strict_json", "chat", "conversations", "records", "folders", "families", "pydocs"),
        *("lines", "hub", "rows", "sources", "prompts", "questions", "console", "compatibility"),
        *("file_checks", "diagnosis", "config_faults", "mismatches"),
    ),
    (
        *("chat_templates", "texts", "packed", "blocks", "structures", "processes", "threads"),
        *("open_files", "weights", "renaming", "shards", "streaming"),
        *("layerwise", "tracing", "minibatches", "logprobs"),
    ),
    (
        *("measurements", "cliff", "publishing", "card_text", "card", "card_align"),
        *("repositories", "checkpoints", "sizes", "companions", "widths", "configs", "forms", "saving"),
        *("tasks", "losses", "predictions", "adapters"),
        *("training_plan", "training_state", "training", "evaluation", "decoding", "sampling", "trainees"),
    ),
    (*VERBS, *REPORT),
    (
        *("demo", "options", "options_recover", "options_merge", "options_fuse"),
        *("options_audit_run", "options_audit", "options_align"),
        *("cli_evaluate", "cli_merge", "cli_export", "cli_report", "cli_audit_run", "cli_audit"),
        *("cli_align", "cli_align_run", "cli", "__main__"),
    ),
)
PLACE = {name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)}
ROOT = (-1, 0)  # remodeler/__init__.py: the version, open to all

MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "transformers", "datasets", "matplotlib")
FILE_LINES, FUNCTION_LINES, MEDIAN_LINES = 300, 60, 10
# A line of a tree in a document: indentation, name, description.
TREE_LINE = re.compile(r"^( *)(\S+)(?: {2,}(\S.*))?$")


class Edge(NamedTuple):
    source: str
    target: str


def dotted(path: Path) -> str:
    """`remodeler.pruning.search` for its file, `remodeler.pruning` for the `__init__.py` beside it."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = frozenset(map(dotted, MODULES))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module of the package that is imported anywhere in the file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "remodeler")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the module's full name"
            if (node.module or "").split(".")[0] == "remodeler":
                yield from (resolved(node.module or "", alias.name) for alias in node.names)


def resolved(module: str, name: str) -> str:
    """`from remodeler import texts` imports a module, `from remodeler.texts import Windows` a name in one."""
    return f"{module}.{name}" if f"{module}.{name}" in NAMES else module


def edges() -> list[Edge]:
    return [Edge(dotted(path), target) for path in MODULES for target in imported(parsed(path))]


def unit(module: str) -> str:
    """What stands on a floor: a module of the package, or a whole folder of it."""
    return [*module.split("."), ""][1]


def place(module: str) -> tuple[int, int]:
    return PLACE[unit(module)] if unit(module) else ROOT


def allowed(edge: Edge) -> bool:
    source, target = unit(edge.source), unit(edge.target)
    if source == target:
        return True
    if source in VERBS and place(edge.target)[0] == place(edge.source)[0]:
        return False  # what two verbs share belongs below them
    if source in REPORT and target in VERBS:
        return False  # a report is made from what is on disk
    return place(edge.target) < place(edge.source)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def fenced(heading: str) -> list[str]:
    """The lines of the first code block under a heading of the map."""
    section = MAP.read_text(encoding="utf-8").split(f"## {heading}", 1)[1]
    return section.split("```", 2)[1].splitlines()[1:]


def tree() -> dict[str, bool]:
    """Every file that the map's tree names, relative to the repository, and whether it is marked as planned."""
    found: dict[str, bool] = {}
    folders: list[tuple[str, bool]] = []
    for indent, name, text in (match.groups() for line in fenced("The tree") if (match := TREE_LINE.match(line))):
        del folders[len(indent) // 2 :]
        path = "".join(folder for folder, _ in folders) + name
        planned = "(planned)" in (text or "") or any(mark for _, mark in folders)
        found[path] = planned
        if name.endswith("/"):
            folders.append((name, planned))
    return found


@pytest.mark.parametrize("module", sorted(NAMES - {"remodeler"}))
def test_every_module_has_its_floor(module: str) -> None:
    assert unit(module) in PLACE, f"{module}: give it a floor in tests/test_architecture.py and docs/architecture.md"


def test_imports_point_down() -> None:
    assert [f"{edge.source} imports {edge.target}" for edge in edges() if not allowed(edge)] == []


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        ("pruning.search", "blocks", True),
        ("pruning.search", "pruning.criteria", True),
        ("cli", "pruning.search", True),
        ("records", "errors", True),
        ("errors", "records", False),
        ("blocks", "checkpoints", False),
        ("merging.stream", "pruning.search", False),
        ("pruning.search", "report", False),
        ("report", "pruning.search", False),
        ("pruning.job", "card", True),
        ("pruning.job", "evaluating", False),
        ("saving", "checkpoints", True),
        ("blocks", "tracing", False),
        ("evaluation", "cli", False),
    ],
)
def test_the_rule_tells_good_edges_from_bad(source: str, target: str, verdict: bool) -> None:
    assert allowed(Edge(f"remodeler.{source}", f"remodeler.{target}")) is verdict


def test_imports_inside_functions_and_of_modules_are_seen() -> None:
    inside = "def f():\n    from remodeler import errors\n    import remodeler.records"
    direct = "from remodeler.errors import InputError\nimport torch"
    seen = [*imported(ast.parse(inside)), *imported(ast.parse(direct))]
    assert seen == ["remodeler.errors", "remodeler.records", "remodeler.errors"]


def test_no_module_imports_itself_through_others() -> None:
    graph: dict[str, set[str]] = {name: set() for name in NAMES}
    for edge in edges():
        graph[edge.source].add(edge.target)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_the_modelling_file_stands_alone() -> None:
    """It is copied beside the weights, where the package may be absent: what it imports of it is behind a condition."""
    path = PACKAGE / "packed.py"
    if not path.exists():
        pytest.skip("not built yet")
    conditional = {name for node in parsed(path).body if isinstance(node, ast.If) for name in imported(node)}
    assert set(imported(parsed(path))) == conditional


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


def test_the_map_names_every_module() -> None:
    modules = {path.relative_to(REPOSITORY).as_posix() for path in MODULES if path.name != "__init__.py"}
    assert sorted(modules - tree().keys()) == []


def test_what_the_map_names_exists_or_is_planned() -> None:
    assert [path for path, planned in tree().items() if not planned and not (REPOSITORY / path).exists()] == []


def test_what_the_map_calls_planned_is_not_there_yet() -> None:
    assert [path for path, planned in tree().items() if planned and (REPOSITORY / path).exists()] == []


def test_the_map_draws_these_floors() -> None:
    drawn = [line.split("(")[0].split()[1:] for line in fenced("Floors") if line[:1].isdigit()]
    assert drawn[::-1] == [list(floor) for floor in FLOORS]


@pytest.mark.parametrize("module", [*FLOORS[0], "cli"])
def test_light_modules_import_fast_and_without_torch(module: str) -> None:
    """`remodel --help` stays instant. Processor time, since the machine may be busy."""
    if f"remodeler.{module}" not in NAMES:
        pytest.skip("not built yet")
    code = (
        f"import sys, time, remodeler.{module}\n"
        f"print(time.process_time(), *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    seconds, *heavy = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert heavy == []
    assert float(seconds) < 1.0
