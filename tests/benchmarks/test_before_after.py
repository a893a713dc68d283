"""What benchmarks/before_after.py compares, how it spells commands, and that it sees a change."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from before_after import Job, compared_files, decisions, differences, spelling_for, verb_of, with_needs

from places import REPOSITORY


def write_log(path: Path, importance: str, seconds: float, restored: str = "") -> Path:
    path.parent.mkdir()
    header = json.dumps({"step": 0, "perplexity": 3.5, "options": {"batch": seconds}})
    path.write_text(
        f'{header}\n{{"step": 1, "removed": ["mlp.0"], "importance": {{"mlp.0": {importance}}}, '
        f'"seconds": {seconds}{restored}}}\n'
    )
    return path


@pytest.mark.parametrize(
    ("importance", "seconds", "restored", "same"),
    [
        ("1.5", 2.0, "", True),
        ("1.50", 1.0, "", False),
        ("1.5", 1.0, ', "restored": ["mlp.1"]', False),
    ],
)
def test_decisions_and_digits_count_and_times_do_not(
    importance: str, seconds: float, restored: str, same: bool, tmp_path: Path
) -> None:
    one = write_log(tmp_path / "one" / "removals.jsonl", "1.5", 1.0)
    other = write_log(tmp_path / "other" / "removals.jsonl", importance, seconds, restored)
    assert (decisions(one) == decisions(other)) is same


def test_weights_predictions_and_logs_of_a_result_are_compared(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_log(out / "removals.jsonl", "1.5", 1.0)
    for name in ("model.safetensors", "round-1.jsonl", "report.html", "record.json"):
        (out / name).write_bytes(b"\0")
    assert set(compared_files(out)) == {"out/model.safetensors", "out/round-1.jsonl", "out/removals.jsonl"}
    assert set(compared_files(out / "report.html")) == {"report.html"}


def test_a_file_that_only_one_side_has_is_a_difference() -> None:
    assert differences({"a": b"1", "b": b"2"}, {"a": b"1"}) == ["b"]
    assert differences({"a": b"1"}, {"a": b"1"}) == []


def test_a_verb_ends_where_paths_and_options_begin() -> None:
    assert verb_of("align run ../inputs/model --epochs 1") == ["align", "run"]
    assert verb_of("audit predict --texts posts.csv") == ["audit", "predict"]


def test_a_job_brings_those_that_it_reads_from() -> None:
    assert with_needs(["export", "merge, ties"]) == ["prune", "merge, ties", "export"]


def test_a_tree_runs_the_newest_spelling_that_its_help_knows(tmp_path: Path) -> None:
    newer, older = "prune x/y --amount 3", "prune x/y --remove 3"
    assert spelling_for(REPOSITORY, Job("out", (newer, older)), tmp_path) == older
    with pytest.raises(RuntimeError, match=r"without --amount to JOBS"):
        spelling_for(REPOSITORY, Job("out", (newer,)), tmp_path)


@pytest.mark.slow
def test_a_tree_that_computes_otherwise_is_noticed(tmp_path: Path) -> None:
    """One tree twice gives the same bytes; a copy whose command changes its own density does not."""
    other = tmp_path / "other"
    shutil.copytree(REPOSITORY / "src", other / "src", ignore=shutil.ignore_patterns("__pycache__"))
    start = other / "src" / "remodeler" / "__main__.py"
    assert compare(REPOSITORY).returncode == 0
    changed = 'import sys\n\nsys.argv = [word.replace("0.5", "0.4") for word in sys.argv]\n'
    start.write_text(changed + start.read_text())
    done = compare(other)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "| merge, ties | 1 | no |" in done.stdout
    assert "merge, ties: ties/model.safetensors" in done.stdout


def compare(after: Path) -> "subprocess.CompletedProcess[str]":
    words = ["--before", str(REPOSITORY), "--after", str(after), "--jobs", "merge, ties"]
    script = str(REPOSITORY / "benchmarks" / "before_after.py")
    return subprocess.run([sys.executable, script, *words], check=False, capture_output=True, text=True)
