"""The scripts in ``examples/`` run as they are, offline, and leave what their headers promise."""

import ast
from pathlib import Path

import pytest

from forks import python

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LEAVES = {
    "align.py": ("policy/model.safetensors", "reviser/reviser.json", "evolved/round-1.jsonl"),
    "audit.py": ("posts-audited/spans.jsonl", "spans-pred.txt", "audited/report.html"),
    "fusechat.py": ("pair-whole/record.json", "pair-other/record.json", "fused/model.safetensors"),
    "prune_and_export.py": ("small/removals.jsonl", "medium/config.json", "small.gguf", "sizes.html"),
}
RUN = """
import runpy, sys
from remodeler.evaluation import metrics
from remodeler.pruning import complete
metrics.compare_affordable_speed = complete.compare_affordable_speed = lambda both: [{} for _ in both]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script without measuring speed, which takes a third of the time and says nothing beside other tests."""


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(LEAVES)


@pytest.mark.parametrize("script", LEAVES)
def test_an_example_says_what_it_shows_and_how_it_is_run(script: str) -> None:
    header = ast.get_docstring(ast.parse((EXAMPLES / script).read_text(encoding="utf-8"))) or ""
    assert f"python examples/{script}" in header
    assert "What it shows:" in header
    assert "Offline" in header


@pytest.mark.slow
@pytest.mark.parametrize("script", LEAVES)
def test_an_example_runs(script: str, tmp_path: Path) -> None:
    if script == "prune_and_export.py":
        pytest.importorskip("gguf")
    out = tmp_path / "out"
    process = python(RUN, EXAMPLES / script, out, cwd=tmp_path)
    _, err = process.communicate(600)
    assert process.returncode == 0, err
    assert [name for name in LEAVES[script] if not (out / name).exists()] == []
