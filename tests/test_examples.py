"""The scripts in ``examples/`` run as they are, offline, and leave what their headers promise."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LEAVES = {
    "align.py": ("policy/model.safetensors", "reviser/reviser.json", "evolved/round-1.jsonl"),
    "audit.py": ("posts-audited/spans.jsonl", "spans-pred.txt", "audited/report.html"),
    "fusechat.py": ("pair-whole/record.json", "pair-other/record.json", "fused/model.safetensors"),
    "prune_and_export.py": ("small/removals.jsonl", "medium/config.json", "small.gguf", "sizes.html"),
}


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
    done = subprocess.run([sys.executable, EXAMPLES / script, out], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [name for name in LEAVES[script] if not (out / name).exists()] == []
