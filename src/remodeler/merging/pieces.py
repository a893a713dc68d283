"""One tensor of many checkpoints, piece by piece: read, made float32, several at a time, in memory that does not grow.

Numbers that are found over a whole tensor must not depend on how it is cut. So pieces begin at multiples of a block (or
of a row), sums are taken block by block and then exactly, and every operation on an element is a single rounded one.
"""

import ctypes
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.merging.files import Place, computed
from remodeler.model.files.open_files import OpenFiles

T = TypeVar("T")

TRIMMED = 32
"""Pieces after which freed memory is given back."""
BLOCK = 4096
"""Elements that are summed together."""
PIECE = 2**17
"""Elements of a tensor that a thread has at once, about: fewer leave it waiting for Python, more leave the cache."""
TINY = 1e-30
"""A mean square above which the smallest squares of float32, about 1e-38, are negligible."""
KEPT = 2**25
"""Most elements of a tensor, in all models together, whose pieces stay in memory for later passes."""
DRAWN = 2**16
"""Random numbers that are drawn together."""


SCRATCH = threading.local()
"""Memory that every thread uses again for each piece: asking the system for it takes longer than computing."""


def scratch(name: str, rows: int, elements: int, device: torch.device) -> Tensor:
    """A tensor [rows, elements] float32 of this thread, whose numbers are those of its last use."""
    held = getattr(SCRATCH, name, None)
    if held is None or held.numel() < rows * elements or held.device != device:
        held = torch.empty(rows * elements, dtype=torch.float32, device=device)
        setattr(SCRATCH, name, held)
    view: Tensor = held[: rows * elements].view(rows, elements)
    return view


def raw_scratch(size: int) -> np.ndarray:
    """Bytes of this thread, to read into."""
    held = getattr(SCRATCH, "raw", None)
    if held is None or len(held) < size:
        held = SCRATCH.raw = np.empty(size, dtype=np.uint8)
    return np.asarray(held[:size])


def trim() -> None:
    """Give freed memory back: glibc before 2.38 can't use aligned blocks, as torch's are, again (its bug 14581)."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


class Source(Protocol):
    """A tensor of one checkpoint."""

    def read(self, start: int, stop: int, keep: bool = True) -> Tensor:
        """Some of its elements, flat, as stored; without ``keep`` good until the thread's next reading."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file."""

    place: Place
    files: OpenFiles[int]
    """Opens the file."""

    def read(self, start: int, stop: int, keep: bool = True) -> Tensor:
        """Elements ``start`` to ``stop``, flat, as stored; without ``keep`` good until the thread's next reading."""
        if self.place.key:
            return computed(self.place)[start:stop]
        size = self.place.dtype.itemsize
        buffer = np.empty((stop - start) * size, dtype=np.uint8) if keep else raw_scratch((stop - start) * size)
        done, offset = 0, self.place.start + start * size
        try:
            with self.files.reading(self.place.file) as handle:
                while done < len(buffer):
                    got = os.preadv(handle, [buffer[done:].data], offset + done)
                    if got == 0:
                        raise OSError("it became shorter")
                    done += got
        except OSError as error:
            why = error.strerror or error
            raise InputError(
                f"{self.place.file} can't be read again ({why}): put it back, run the same command"
            ) from None
        return torch.from_numpy(buffer).view(self.place.dtype)


@dataclass(frozen=True)
class Piece:
    """Some elements of a tensor, of all models, on the device; good until the thread takes the next piece."""

    base: Tensor | None
    """[elements] float32; None for methods without a base."""
    tensors: Tensor
    """[models, elements] float32"""
    start: int
    """Place of the first element in the flat tensor."""
    row: int
    """Elements of a row: of the last dimension."""
    key: int
    """Number of the tensor, for random numbers."""

    @cached_property
    def deltas(self) -> Tensor:
        """Each model's difference from the base: [models, elements] float32."""
        if self.base is None:
            raise ValueError("this method was given no base")
        rows, elements = self.tensors.shape
        return torch.sub(self.tensors, self.base, out=scratch("deltas", rows, elements, self.tensors.device))


@dataclass(frozen=True)
class Walk:
    """All pieces of a tensor, for any number of passes, several at a time."""

    base: Source | None
    models: Sequence[Source]
    count: int
    """Elements of the tensor."""
    row: int
    key: int
    device: torch.device
    pool: ThreadPoolExecutor
    """Threads that each read and compute a piece; torch's own would wait for each other after every operation."""
    threads: int
    by_rows: bool = False
    """Whether rows must be whole; else blocks are."""
    size: int = PIECE
    kept: dict[int, list[Tensor]] = field(default_factory=dict)

    def over(self, function: Callable[[Piece], T]) -> Iterator[T]:
        """Apply a function to every piece, in order; a few pieces are computed ahead of the one that is yielded."""
        ahead: deque[Future[T]] = deque()
        for number, start in enumerate(range(0, self.count, self.step), 1):
            if len(ahead) > self.threads:
                yield ahead.popleft().result()
            if number % TRIMMED == 0:
                trim()
            ahead.append(self.pool.submit(lambda start: function(self.piece(start)), start))
        while ahead:
            yield ahead.popleft().result()

    @property
    def step(self) -> int:
        """Elements of a piece."""
        unit = max(1, self.row if self.by_rows else BLOCK)
        return max(1, self.size // unit) * unit

    def piece(self, start: int) -> Piece:
        """The piece that begins at an element."""
        sources = [*([self.base] if self.base else []), *self.models]
        stop = min(start + self.step, self.count)
        stack = scratch("stack", len(sources), stop - start, self.device)
        if start in self.kept:
            for row, each in zip(stack, self.kept[start], strict=True):
                row.copy_(each)
        elif self.count * len(sources) > KEPT:
            for row, source in zip(stack, sources, strict=True):
                row.copy_(source.read(start, stop, keep=False))
        else:
            self.kept[start] = [source.read(start, stop) for source in sources]
            return self.piece(start)
        base, tensors = (stack[0], stack[1:]) if self.base else (None, stack)
        return Piece(base, tensors, start, self.row, self.key)


# What is found over a whole tensor ------------------------------------------------------------------------------------


def totals(walk: Walk, values: Callable[[Piece], Tensor]) -> list[float]:
    """Sums over a tensor of [rows, elements] numbers, one per row, in float64 and rounded once at the end."""
    parts = list(walk.over(lambda piece: _block_sums(values(piece)).cpu()))
    return [math.fsum(row) for row in torch.cat(parts, 1).tolist()]


def _block_sums(values: Tensor) -> Tensor:
    """[rows, elements] to [rows, blocks] float64: a block's sum does not depend on the blocks beside it."""
    rest = -values.shape[1] % BLOCK
    padded = torch.nn.functional.pad(values, (0, rest)) if rest else values
    blocks: Tensor = padded.unflatten(1, (-1, BLOCK))
    return blocks.sum(2, dtype=torch.float64)


def squares(walk: Walk, values: Callable[[Piece], Tensor]) -> list[float]:
    """Sums of squares over a tensor, one per row; taken again in float64 where float32 may overflow or underflow."""

    def square(piece: Piece) -> Tensor:
        found = values(piece)
        rows, elements = found.shape
        return torch.mul(found, found, out=scratch("squares", rows, elements, found.device))

    found = totals(walk, square)
    if all(TINY * walk.count < each < math.inf for each in found):
        return found
    return totals(walk, lambda piece: values(piece).double().square())


def sum_in_order(rows: Tensor) -> Tensor:
    """Sum over the models, in their order: [models, elements] to [elements]."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def uniform_numbers(piece: Piece, model: int) -> Tensor:
    """Random numbers in [0, 1), a function of the tensor, the model and the place of an element: [elements] float32."""
    length = piece.tensors.shape[1]
    first, last = piece.start // DRAWN, (piece.start + length - 1) // DRAWN
    drawn = np.concatenate([_draw(piece.key, model, number) for number in range(first, last + 1)])
    offset = piece.start - first * DRAWN
    numbers: Tensor = torch.from_numpy(drawn[offset : offset + length]).to(piece.tensors.device)
    return numbers


def _draw(key: int, model: int, number: int) -> np.ndarray:
    """Philox is counter-based: any part of the sequence is drawn without those before it."""
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, model]))
    drawn: np.ndarray = generator.random(DRAWN, dtype=np.float32)
    return drawn
