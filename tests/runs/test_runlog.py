"""A log is continued by its own run only, and what a kill tore is forgotten."""

from pathlib import Path

import pytest

from remodeler.errors import InputError
from remodeler.runs.records import read_lines
from remodeler.runs.runlog import RunLog


def test_a_log_is_taken_up_by_its_own_run_only(tmp_path: Path) -> None:
    log, header = RunLog(tmp_path / "log.jsonl"), {"model": "a", "labels": ("x", "y")}
    assert log.resume(header) == []
    log.append([{"row": 1}, {"row": 2}])
    with log.path.open("a") as file:
        file.write('{"row": 3')  # a kill
    assert log.resume(header) == [{"row": 1}, {"row": 2}]
    log.append([{"row": 3}])
    assert len(log.resume(header)) == 3
    for other, says in (({**header, "model": "b"}, "another model"), ({"model": "a"}, "another labels")):
        with pytest.raises(InputError, match=says):
            log.resume(other)
    log.path.write_text('{"model": "a"')  # a kill in the first line
    assert log.resume(header) == []
    assert read_lines(log.path) == [{"model": "a", "labels": ["x", "y"]}]


def test_the_lines_of_a_log_are_whole(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    assert log.lines() == []
    log.path.write_text('{"run": 1}\n{"row": 1}\n{"row"')
    assert log.lines() == [{"run": 1}, {"row": 1}]
    assert log.path.read_text() == '{"run": 1}\n{"row": 1}\n'


def test_what_differs_from_a_log_is_found_without_a_change(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    assert log.mismatches({"model": "a"}) == []
    assert not log.path.exists()
    log.path.write_text('{"model": "a", "labels": ["x"]}\n{"row"')
    assert log.mismatches({"model": "a", "labels": ("x",)}) == []
    assert log.mismatches({"model": "b", "seed": 1}) == ["model", "seed", "labels"]
    assert log.path.read_text().endswith('{"row"')
