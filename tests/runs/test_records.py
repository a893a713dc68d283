"""Nothing is half-written, nothing is overwritten, and a torn line is forgotten."""

import errno
import json
from pathlib import Path

import pytest

from remodeler.errors import InputError
from remodeler.runs.records import (
    Record,
    append_line,
    disk_errors,
    drop_torn_line,
    load_record,
    read_json,
    read_lines,
    save_record,
    versions,
    write_json,
    write_text,
)


def test_a_record_reads_back(tmp_path: Path) -> None:
    record = Record("prune", {"ratio": 0.25}, {"model": {"name": "m"}}, 42, versions(), {"removed": ["mlp.1"]})
    save_record(tmp_path, record)
    assert load_record(tmp_path) == record
    assert {"python", "remodeler", "torch"} <= set(record.versions)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


def test_a_torn_line_is_forgotten_and_the_next_one_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"b": ')
    assert read_lines(path) == [{"a": 1}]
    drop_torn_line(path)
    append_line(path, {"c": 3})
    assert read_lines(path) == [{"a": 1}, {"c": 3}]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\nnonsense\n')
    with pytest.raises(InputError, match=r"line 2 of .*lines.jsonl is not valid JSON"):
        read_lines(path)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "can't be written"), (errno.EACCES, "can't be written")],
)
def test_a_disk_that_refuses_is_one_sentence(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=words):
        append_line(tmp_path / "log.jsonl", {"step": 1})


def test_json_is_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "é"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"text": "é"}
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "full"), "no space left on the disk of place"),
        (Exception("No space left on device (os error 28)"), "no space left on the disk of place"),  # tokenizers
        (ValueError("I/O error: Read-only file system (os error 30)"), "place can't be written"),  # safetensors
        (OSError("9600 requested and 4816 written"), "no space left on the disk of place"),  # numpy
        (OSError(errno.ENOTDIR, "Not a directory"), "place can't be used"),
    ],
)
def test_an_error_of_the_disk_is_one_sentence_whoever_says_it(error: Exception, words: str) -> None:
    with pytest.raises(InputError, match=words), disk_errors(Path("place")):
        raise error


def test_other_errors_are_no_errors_of_the_disk() -> None:
    with pytest.raises(ValueError, match="a bug"), disk_errors(Path("place")):
        raise ValueError("a bug")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_file_that_does_not_fit_leaves_no_half(tmp_path: Path) -> None:
    (tmp_path / "file.partial").symlink_to("/dev/full")
    with pytest.raises(InputError, match="no space left"):
        write_text(tmp_path / "file", "words")
    assert list(tmp_path.iterdir()) == []
