"""Folders get their name when they are whole; what a kill leaves is taken up; weights are as readable as the rest."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from remodeler.errors import InputError
from remodeler.runs.folders import (
    DESCRIBED,
    MARK,
    is_described,
    mark_described,
    new_folder,
    only_one,
    refuse_existing,
    remove_scratch,
    resume,
)
from remodeler.runs.records import Record, append_line, read_lines, save_record


def test_a_folder_gets_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), new_folder(out) as work:  # noqa: PT012
        (work / "half").write_text("half")
        raise RuntimeError("killed")
    assert not out.exists()
    assert not work.parent.exists(), "nothing in it could be taken up, and the folder above is this run's"
    work.mkdir(parents=True)
    (work / MARK).touch()
    (work / "left by a kill").write_text("half")
    with new_folder(out) as work:
        assert [path.name for path in work.iterdir()] == [MARK], "what was left is thrown away"
        (work / "whole").write_text("whole")
    assert [path.name for path in out.iterdir()] == ["whole"]
    assert not work.exists()


def test_a_kept_folder_is_taken_up(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", keep=True) as work:  # noqa: PT012
        append_line(work / "log.jsonl", {"run": "this"})
        append_line(work / "log.jsonl", {"step": 1})
        raise RuntimeError("killed")
    with new_folder(tmp_path / "out", keep=True) as work:
        assert read_lines(work / "log.jsonl") == [{"run": "this"}, {"step": 1}]


def test_a_kept_folder_that_only_says_what_the_run_is_goes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", keep=True) as work:  # noqa: PT012
        append_line(work / "log.jsonl", {"run": "this"})
        raise RuntimeError("refused")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [True, False])
def test_a_folder_of_somebody_elses_is_not_emptied(keep: bool, tmp_path: Path) -> None:
    theirs = tmp_path / "out.partial" / "thesis.txt"
    theirs.parent.mkdir()
    refuse_existing(tmp_path / "out")  # an empty one is anybody's
    theirs.write_text("three years")
    with pytest.raises(InputError, match="holds no work of this tool"), new_folder(tmp_path / "out", keep):
        pass
    assert theirs.read_text() == "three years"


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"), new_folder(tmp_path):
        pass


@pytest.mark.parametrize("name", ["out.partial", "missing/.."])
def test_a_name_that_unfinished_work_would_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="until it is whole: name another"):
        refuse_existing(tmp_path / name)


def test_two_can_not_work_in_one_folder(tmp_path: Path) -> None:
    with (
        new_folder(tmp_path / "out") as work,
        pytest.raises(InputError, match="another process is working in"),
        new_folder(tmp_path / "out", keep=True),
    ):
        pass
    assert not work.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_weights_have_the_mode_of_any_new_file(mask: int, tmp_path: Path) -> None:
    """The writer of safetensors has one of its own."""
    before = os.umask(mask)
    try:
        with new_folder(tmp_path / "out") as work:
            (work / "parts").mkdir()
            for path in (work / "model.safetensors", work / "parts" / "one.safetensors"):
                save_file({"a": torch.zeros(1)}, path)
            (work / "config.json").write_text("{}")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors", "parts"]


def test_a_folder_is_described_once_that_was_said_and_for_the_same_options_only(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    options = {"steps": 3, "out": "there"}
    assert not is_described(tmp_path / "nowhere", options)
    assert not is_described(tmp_path, options)
    save_record(tmp_path, Record("fuse", options, {}, 0))
    assert not is_described(tmp_path, options), "a kill between the record and the page"
    mark_described(tmp_path)
    assert is_described(tmp_path, options)
    assert not is_described(tmp_path, options | {"steps": 4})
    remove_scratch(tmp_path, "training", "nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == [DESCRIBED, "record.json"]


def test_the_work_stays_but_not_that_of_a_run_that_was_killed_while_it_tidied(tmp_path: Path) -> None:
    """Its folders may be in pieces, and nothing says any more whose they are."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "step-3").mkdir()
    save_record(tmp_path, Record("fuse", {"steps": 3}, {}, 0))
    resume(tmp_path, ("training",))
    assert [path.name for path in tmp_path.iterdir()] == ["training"], "a kill while the result was written"
    save_record(tmp_path, Record("fuse", {"steps": 3}, {}, 0))
    mark_described(tmp_path)
    resume(tmp_path, ("training",))
    assert not list(tmp_path.iterdir())


HOLD = """
import sys
from pathlib import Path
from remodeler.runs.folders import (
    DESCRIBED,
    MARK,
    is_described,
    mark_described,
    new_folder,
    only_one,
    refuse_existing,
    remove_scratch,
    resume,
)
with new_folder(Path(sys.argv[1]), keep=True) as work:
    (work / "work").write_text("half")
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_dies_leaves_its_folder_free(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdin=pipe, stdout=pipe) as other:
        assert other.stdout
        assert other.stdout.readline() == b"holds\n"
        before = state(tmp_path / "out.partial")
        with pytest.raises(InputError, match="another process is working in"), new_folder(tmp_path / "out", keep=True):
            pass
        assert state(tmp_path / "out.partial") == before
        other.kill()
    with new_folder(tmp_path / "out", keep=True) as work:
        assert (work / "work").read_text() == "half"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["work"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def state(folder: Path) -> dict[str, int]:
    """The files of a folder, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}


def test_who_waited_for_a_folder_that_was_finished_meanwhile_is_refused(tmp_path: Path) -> None:
    """The mark was opened before the folder got its name, and can be locked after that."""
    with new_folder(tmp_path / "out") as work:
        (work / "work").write_text("whole")
        late = (work / MARK).open("a")
    with late, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: late)
        with pytest.raises(InputError, match="another process is working in"), only_one(work):
            pass
