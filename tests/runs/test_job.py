"""The life of a run: nothing is done twice, nothing is overwritten, and a kill at any moment costs only the moment."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remodeler.errors import InputError
from remodeler.runs import job as job_module
from remodeler.runs.job import Job, run
from remodeler.runs.records import Record, append_line, read_lines, save_record

OPTIONS = {"steps": 3}


class Killed(BaseException):
    """As a signal would end it."""


def work(folder: Path, fail_at: int | None = None) -> list[int]:
    """Three lines, one after the other, behind those that are there."""
    log = folder / "log.jsonl"
    done = len(read_lines(log)) if log.exists() else 0
    for number in range(done, 3):
        if number == fail_at:
            raise Killed
        append_line(log, number)
    (folder / "states").mkdir(exist_ok=True)
    (folder / "half").write_text("made again after a kill")
    return [int(line) for line in read_lines(log)]


def described(folder: Path, results: list[int]) -> None:
    save_record(folder, Record("count", OPTIONS, {}, 0, {}, {"lines": results}))


def read(folder: Path) -> list[int]:
    return list(json.loads((folder / "record.json").read_text())["results"]["lines"])


JOB = Job(OPTIONS, work, described, read, kept=("log.jsonl", "states"), scratch=("states",))


def test_a_run_leaves_a_whole_folder(tmp_path: Path) -> None:
    assert run(lambda device: JOB, tmp_path / "out") == [0, 1, 2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["half", "log.jsonl", "record.json"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    with pytest.raises(Killed):
        run(lambda device: replace(JOB, work=lambda folder: work(folder, 2)), out)
    (tmp_path / "out.partial" / "rubbish").write_text("of a kill")

    def watched(folder: Path) -> list[int]:
        seen.append(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
        return work(folder)

    assert run(lambda device: replace(JOB, work=watched), out) == [0, 1, 2]
    assert seen == [["log.jsonl"]], "what is none of the work is made again"


def test_what_is_killed_while_it_tidies_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "remove_scratch", died)
        with pytest.raises(Killed):
            run(lambda device: JOB, tmp_path / "out")
    again = replace(JOB, work=died, describe=died)
    assert run(lambda device: again, tmp_path / "out") == [0, 1, 2]
    assert not (tmp_path / "out" / "states").exists()


def test_what_another_run_left_tidying_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "remove_scratch", died)
        with pytest.raises(Killed):
            run(lambda device: JOB, tmp_path / "out")
    seen = []

    def watched(folder: Path) -> list[int]:
        seen.append((folder / "log.jsonl").exists())
        return work(folder)

    run(lambda device: replace(JOB, options={"steps": 4}, work=watched), tmp_path / "out")
    assert seen == [False]


def test_a_dry_run_says_and_does_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    job = replace(JOB, announce=lambda: said.append("announced"), preview=lambda: said.append("previewed"))
    assert run(lambda device: job, tmp_path / "out", dry_run=True) is None
    assert said == ["announced", "previewed"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    def loaded(device: str) -> Job[list[int]]:
        raise AssertionError("it was loaded")

    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        run(loaded, tmp_path / "out")


def test_without_a_place_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(lambda device: JOB, None) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_says_what_takes_less(tmp_path: Path) -> None:
    def greedy(folder: Path) -> list[int]:
        raise MemoryError

    with pytest.raises(InputError, match=r"memory ran out .*: run the same command with a smaller `batch_size`"):
        run(lambda device: replace(JOB, work=greedy), tmp_path / "out", remedy="a smaller `batch_size`")
