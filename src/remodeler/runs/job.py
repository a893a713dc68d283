"""The life of a run, the same for every verb: refuse, announce, resume, work, describe, tidy, rename.

All is done in ``OUT.partial``, which gets its name when it is whole. What a kill leaves there is taken up by the same
command: the work goes on where its own logs stand, and what was described already is only tidied and renamed. Of
several processes (torchrun) the first writes and talks, the others take their share of the work.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

from remodeler.errors import InputError, one_line, out_of_memory
from remodeler.runs import processes
from remodeler.runs.folders import (
    is_described,
    mark_described,
    new_folder,
    partial,
    refuse_existing,
    remove_scratch,
    resume,
)

R = TypeVar("R")


@dataclass(frozen=True)
class Job(Generic[R]):
    """What a verb is going to do, once everything that it needs is loaded and looked at."""

    options: Mapping[str, Any]
    """What was asked for, as the record holds it: a folder that was described with other options is not taken up."""
    work: Callable[[Path], R]
    """Do it in a folder, from wherever an earlier run stopped; in the first process."""
    describe: Callable[[Path, R], object]
    """Write the record, the card and the report of what came of it."""
    read: Callable[[Path], R]
    """What came of it, from a folder that was described."""
    announce: Callable[[], object] = lambda: None
    """Say what will be done, before it is."""
    preview: Callable[[], object] = lambda: None
    """Say the rest of it, which a run says while it works; in a dry run."""
    assist: Callable[[Path], object] = lambda folder: None
    """The share of the other processes."""
    kept: tuple[str, ...] = field(default=())
    """Files and folders of the work, which a kill leaves; all else in an unfinished folder is made again."""
    scratch: tuple[str, ...] = field(default=())
    """Those of them that a finished folder lacks."""


def run(
    prepare: Callable[[str], Job[R]],
    out: Path | None,
    *,
    device: str = "cpu",
    remedy: str = "",
    dry_run: bool = False,
) -> R | None:
    """Run a job, or say what it would do.

    Args:
        prepare: loads and looks at everything, on a device; refuses what can't work.
        out: a folder that does not exist yet; without one, nothing is kept.
        device: as asked for; of several processes each gets its own.
        remedy: what to try where memory runs out.
        dry_run: only say it.

    Returns:
        What came of it; None in a dry run, and in all processes but the first.

    Raises:
        InputError: for what can't work, before the work begins.
    """
    if out is not None:
        refuse_existing(out)
    with processes.group(device) as own, enough_memory(remedy):
        job = prepare(own)
        if processes.is_first():
            job.announce()
        if dry_run:
            job.preview()
            return None
        return _run(job, out)


def _run(job: Job[R], out: Path | None) -> R | None:
    work = partial(out) if out is not None else None
    described = processes.from_first(work is not None and processes.is_first() and is_described(work, job.options))
    if not processes.is_first():
        if not described:
            assert work is not None
            job.assist(work)
        return None
    with _folder(out, keep=bool(job.kept) or described) as folder:
        results = job.read(folder) if described else _work(job, folder)
        remove_scratch(folder, *job.scratch)
    return results


def _work(job: Job[R], folder: Path) -> R:
    resume(folder, job.kept)
    results = job.work(folder)
    job.describe(folder, results)
    mark_described(folder)
    return results


@contextmanager
def _folder(out: Path | None, keep: bool) -> Iterator[Path]:
    if out is not None:
        with new_folder(out, keep) as folder:
            yield folder
        return
    with TemporaryDirectory() as place:
        yield Path(place)


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Turn a device that runs out of memory into a sentence that says what takes less; steps that are done stay."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        tried = f" with {remedy}" if remedy else " where there is more"
        raise InputError(f"memory ran out ({one_line(error)}): run the same command{tried}") from error
