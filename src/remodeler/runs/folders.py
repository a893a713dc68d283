"""Folders on disk, filled so that a kill at any moment leaves nothing half-made, and nothing done twice.

A folder is filled as ``NAME.partial``, and gets its name when it is whole. Nothing is ever overwritten.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from remodeler.errors import InputError
from remodeler.runs.records import RECORD_FILE, disk_errors, read_json, to_json

MARK = ".remodel"
"""A file in an unfinished folder: only folders that have it are taken up, or emptied. Whoever works there locks it."""
DESCRIBED = ".remodel-described"
"""A file in an unfinished folder of which record, card and report are written."""
UNFINISHED = ".partial"
LONGEST_SUFFIX = ".record.json"
"""Of the names that a result and its parts have on the disk while it is made."""


def refuse_existing(path: Path) -> None:
    """Refuse a place for a result where there is something, or where nothing can be written; before there is work."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {path} is not valid UTF-8, which weights need: choose another `out`") from None
    if path.name == ".." or path.suffix == UNFINISHED:
        raise InputError(
            f"{path} can't be the name of a result, which has {UNFINISHED} until it is whole: name another"
        )
    with disk_errors(path):
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} exists already: choose another `out` or remove it first")
        _refuse_foreign(partial(path))
        with suppress(FileNotFoundError):
            path.with_name(path.name + LONGEST_SUFFIX).lstat()  # raises for a name that is too long
        _refuse_unwritable(existing_parent(path))


def _refuse_foreign(work: Path) -> None:
    """Refuse a folder of somebody else's where a result would be made: it would be emptied."""
    if work.is_dir() and any(work.iterdir()) and not (work / MARK).exists():
        raise InputError(f"{work} exists and holds no work of this tool, which needs that name: move it away")


def existing_parent(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    return next(each for each in path.absolute().parents if each.exists())


def _refuse_unwritable(folder: Path) -> None:
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"no right to write in {folder}")


def free_space(path: Path) -> int:
    """Bytes that are free on the disk of a result that is still to be made."""
    with disk_errors(path):
        return shutil.disk_usage(existing_parent(path)).free


def partial(path: Path) -> Path:
    """Where a folder is being made until it is whole."""
    return path.with_name(path.name + UNFINISHED)


@contextmanager
def new_folder(path: Path, keep: bool = False) -> Iterator[Path]:
    """A folder to fill: ``PATH.partial``, renamed to PATH when the block ends well.

    With ``keep`` an earlier unfinished folder is taken up as it is (resuming); otherwise it is emptied first.
    """
    refuse_existing(path)
    work = partial(path)
    new = [each for each in path.parents if not each.exists()]
    with disk_errors(path):
        work.mkdir(parents=True, exist_ok=True)
        with only_one(work) as let_go:
            try:
                if not keep:
                    empty(work)
                yield work
                readable(work)
                let_go()
                work.rename(path)
                for name in (MARK, DESCRIBED):  # after the rename: a folder without them would not be taken up
                    with suppress(OSError):
                        (path / name).unlink()
            except BaseException:
                if not keep or not _holds_work(work):
                    let_go()
                    shutil.rmtree(work, ignore_errors=True)  # nothing in it could be taken up
                    _remove_empty(new)
                raise


def is_described(work: Path, options: Mapping[str, Any]) -> bool:
    """Whether an unfinished folder lacks nothing but its name: a run with the same options was described in it."""
    return (work / DESCRIBED).exists() and bool(
        read_json(work / RECORD_FILE)["options"] == json.loads(to_json(options))
    )


def mark_described(work: Path) -> None:
    """Say that all files of a result are written: from here on a kill costs none of them."""
    with disk_errors(work):
        (work / DESCRIBED).touch()


def resume(work: Path, kept: Sequence[str]) -> None:
    """Remove what a kill left while a result was written; the work itself, ``kept``, stays.

    Not that of another run which was killed while it tidied: it may be in pieces, and nothing says whose it is.
    """
    empty(work, () if (work / DESCRIBED).exists() else kept)


def remove_scratch(folder: Path, *names: str) -> None:
    """Take out of a finished folder what only the work needed."""
    for path in (folder / name for name in names):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def readable(folder: Path) -> None:
    """Give weights the mode of any new file: safetensors 0.8 writes them so that only their owner reads them."""
    trial = folder / "mode.partial"
    trial.touch()
    mode = stat.S_IMODE(trial.stat().st_mode)
    trial.unlink()
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def _holds_work(folder: Path) -> bool:
    """Whether there is more than first lines of logs, which only say what the run is."""
    return any(not _is_begun(path) for path in folder.rglob("*") if path.is_file() and path.name != MARK)


def _is_begun(path: Path) -> bool:
    if path.suffix != ".jsonl":
        return False
    with path.open("rb") as file:
        file.readline()
        return not file.readline()


def _remove_empty(folders: Sequence[Path]) -> None:
    """Those of some folders, the innermost first, that hold nothing."""
    with suppress(OSError):
        for each in folders:
            each.rmdir()


@contextmanager
def only_one(folder: Path) -> Iterator[Callable[[], None]]:
    """Lock the mark of a folder, so that no other process works there; the system unlocks it when a process dies.

    Yields what to call before the folder is renamed or removed: Windows does neither while a file in it is open.
    """
    with (folder / MARK).open("a") as mark:  # no new date: what is refused leaves everything as it was
        locked = lock_descriptor(mark.fileno(), blocking=False)
        if not locked or not (folder / MARK).exists():  # who held it may have finished just now
            raise InputError(f"another process is working in {folder}: wait for it, or choose another `out`")
        yield mark.close if os.name == "nt" else lambda: None


def empty(folder: Path, but: Sequence[str] = ()) -> None:
    """Remove everything in a folder, but for some files and the mark of an unfinished one."""
    for path in [each for each in folder.iterdir() if each.name not in (*but, MARK)]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
