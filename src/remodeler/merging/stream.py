"""Walk the checkpoints tensor by tensor and write the merged one in its place; a journal records what is done.

The journal has a line per tensor, with the CRC-32 of its bytes. A run that was killed reads back what the journal
names, and resumes with the tensors that are missing or damaged; what it writes is the same, bit for bit.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remodeler.errors import InputError, option
from remodeler.merging.files import Place
from remodeler.merging.methods import Facts, shares
from remodeler.merging.pieces import Piece, Source, Walk
from remodeler.merging.table import Method
from remodeler.runs.progress import Progress
from remodeler.runs.records import disk_errors
from remodeler.runs.runlog import RunLog
from remodeler.runs.threads import side_by_side

JOURNAL = "merge.jsonl"


@dataclass(frozen=True)
class Task:
    """One tensor of the result."""

    name: str
    place: Place
    """Where it is written."""
    base: Source | None
    models: Sequence[Source]
    values: Mapping[str, Any]
    """The method's options here."""
    unit: str
    """What its facts are pooled over: its own name, its layer's, or nothing."""
    key: int
    """For random numbers."""

    @property
    def row(self) -> int:
        """Elements of its last dimension."""
        return self.place.shape[-1] if self.place.shape else 1


@dataclass(frozen=True)
class Workers:
    """The threads that work, and the device that computes."""

    pool: ThreadPoolExecutor
    threads: int
    device: torch.device
    size: int
    """Elements of a piece."""

    def walk(self, task: Task, method: Method) -> Walk:
        """The pieces of a tensor."""
        base, models, count = task.base, task.models, task.place.count
        return Walk(
            base, models, count, task.row, task.key, self.device, self.pool, self.threads, method.by_rows, self.size
        )


@contextmanager
def workers(device: torch.device, size: int) -> Iterator[Workers]:
    """As many threads as torch would use, each computing alone meanwhile."""
    with side_by_side() as (pool, threads):
        yield Workers(pool, threads, device, size)


def merge_tensors(
    tasks: Sequence[Task],
    method: Method,
    header: Mapping[str, Any],
    folder: Path,
    device: torch.device,
    size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Merge every tensor that the journal does not have yet.

    Args:
        tasks: in the order of the input files.
        method: how tensors are merged.
        header: what the merge is, to tell it from another one that left something in the folder.
        folder: where the journal is; the files of the layout exist.
        device: where to compute.
        size: elements of a piece.
        progress: receives the share of the bytes done, and a name.

    Returns:
        The lines of the journal, without the header.

    Raises:
        InputError: when the folder holds another merge, or a result is NaN or infinite.
    """
    refuse_other_merge(folder, header)
    journal = RunLog(folder / JOURNAL)
    done = _finished(journal.resume(header), tasks)
    left = [task for task in tasks if task.name not in done]
    total = sum(task.place.bytes for task in tasks) or 1
    finished = total - sum(task.place.bytes for task in left)
    with workers(device, size) as work:
        pooled = _pool_facts(tasks, method, work, progress)
        for task in left:
            progress(finished / total, task.name)
            journal.append([_merge_tensor(task, method, work, pooled)])
            finished += task.place.bytes
    return list({line["name"]: line for line in journal.lines()[1:]}.values())


def _pool_facts(tasks: Sequence[Task], method: Method, work: Workers, progress: Progress) -> dict[str, Facts]:
    """Facts of units of several tensors, which must be known before the first of them is merged."""
    units: dict[str, list[Task]] = {}
    for task in tasks:
        units.setdefault(task.unit, []).append(task)
    if method.pool is None or all(len(each) == 1 for each in units.values()):
        return {}
    found: dict[str, Facts] = {}
    for unit, members in units.items():
        progress(0.0, f"measuring {unit or 'the model'}")
        found[unit] = method.pool([_survey(task, method, work.walk(task, method)) for task in members])
    return found


def _survey(task: Task, method: Method, walk: Walk) -> Facts:
    if method.survey is None:
        return {}
    return method.survey(walk, **_accepted(method.survey, task.values))


def _accepted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a function takes."""
    asked = [name for name, each in signature(function).parameters.items() if each.kind is Parameter.KEYWORD_ONLY]
    return {name: values[name] for name in asked if name in values}


def _merge_tensor(task: Task, method: Method, work: Workers, pooled: Mapping[str, Facts]) -> dict[str, Any]:
    """Merge a tensor and write it; its line of the journal."""
    if not task.place.dtype.is_floating_point:
        return {"name": task.name, "crc32": _copy_integers(task, work.size)}
    walk = work.walk(task, method)
    facts = pooled[task.unit] if pooled else _survey(task, method, walk)
    values = _accepted(method.combine, task.values)
    checksum = _write_pieces(task, walk, lambda piece: method.combine(piece, facts, **values))
    line: dict[str, Any] = {"name": task.name, "crc32": checksum}
    return line | ({"shares": list(shares(facts["squares"]))} if "squares" in facts else {})


def _write_pieces(task: Task, walk: Walk, combine: Callable[[Piece], Tensor]) -> int:
    """Merge the pieces of a tensor and write each in its place; the CRC-32 of them all."""
    checksum = 0
    with disk_errors(task.place.file), task.place.file.open("r+b") as file:

        def make(piece: Piece) -> memoryview:
            data = _bytes(task, combine(piece))
            _write(file.fileno(), data, task.place.start + piece.start * task.place.dtype.itemsize)
            return data

        for data in walk.over(make):
            checksum = zlib.crc32(data, checksum)
    return checksum


def _copy_integers(task: Task, size: int) -> int:
    """Copy an integer tensor, which can't be averaged: it must be the same in all models."""
    first, *others = [*([task.base] if task.base else []), *task.models]
    checksum, offset = 0, task.place.start
    with disk_errors(task.place.file), task.place.file.open("r+b") as file:
        for start in range(0, task.place.count, size):
            stop = min(start + size, task.place.count)
            part = first.read(start, stop)
            if not all(torch.equal(part, other.read(start, stop)) for other in others):
                raise InputError(f"{task.name} holds integers that differ between the models: they can't be merged")
            data = part.view(torch.uint8).numpy().data
            _write(file.fileno(), data, offset)
            checksum, offset = zlib.crc32(data, checksum), offset + len(data)
    return checksum


def _write(file: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], offset + done)


def _bytes(task: Task, part: Tensor) -> memoryview:
    """A part as it is stored, in memory of its own: the thread's scratch is used again before it is summed up."""
    low, high = torch.aminmax(part)  # NaN, if there is one
    most = torch.finfo(task.place.dtype).max
    if not (low >= -most and high <= most):
        raise InputError(_why_not(task, part))
    return part.to("cpu", task.place.dtype, copy=True).contiguous().view(torch.uint8).numpy().data


def _why_not(task: Task, part: Tensor) -> str:
    if torch.isfinite(part).all():
        return (
            f"{task.name} has values too large for {task.place.dtype}: choose {option('dtype', 'float32')} or bfloat16"
        )
    return f"{task.name} becomes NaN or infinite: one of the models holds NaN or infinity there, leave that one out"


# What is on disk ------------------------------------------------------------------------------------------------------


def refuse_other_merge(folder: Path, header: Mapping[str, Any]) -> None:
    """Raise where a folder holds another merge; nothing is changed.

    Raises:
        InputError: that names what differs.
    """
    if differing := RunLog(folder / JOURNAL).mismatches(header):
        other = ", ".join(differing)
        raise InputError(f"{folder} holds a merge of another {other}: remove it, or choose another {option('out')}")


def _finished(lines: Sequence[Mapping[str, Any]], tasks: Sequence[Task]) -> set[str]:
    """Names of the tensors that an earlier run finished, and whose bytes are still those it wrote."""
    known = {line["name"]: line["crc32"] for line in lines}
    return {task.name for task in tasks if task.name in known and checksum(task.place) == known[task.name]}


def checksum(place: Place) -> int:
    """CRC-32 of the bytes of a tensor on disk."""
    found, left = 0, place.bytes
    with disk_errors(place.file), place.file.open("rb") as file:
        file.seek(place.start)
        while left and (data := file.read(min(left, 2**22))):
            found, left = zlib.crc32(data, found), left - len(data)
    return found
