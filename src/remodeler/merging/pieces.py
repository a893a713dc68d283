"""One tensor of many checkpoints, piece by piece: read ahead, made float32, in memory that does not grow with it.

Numbers that are found over a whole tensor must not depend on how it is cut. So pieces begin at multiples of a block (or
of a row), sums are taken block by block and then exactly, and every operation on an element is a single rounded one.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.merging.files import Place

BLOCK = 4096
"""Elements that are summed together."""
PIECE = 2**18
"""Elements of a tensor at once, about: small enough for a processor's cache."""
KEPT_BYTES = 2**27
"""Of a tensor whose pieces stay in memory for the passes after the first."""
DRAWN = 2**16
"""Random numbers that are drawn together."""


class Source(Protocol):
    """A tensor of one checkpoint."""

    def read(self, start: int, stop: int) -> Tensor:
        """Some of its elements, flat, as stored."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file."""

    place: Place
    handle: int
    """The opened file."""

    def read(self, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop``, flat, as stored."""
        size = self.place.dtype.itemsize
        buffer = np.empty((stop - start) * size, dtype=np.uint8)
        done, offset = 0, self.place.start + start * size
        while done < len(buffer):
            got = os.preadv(self.handle, [buffer[done:].data], offset + done)
            if got == 0:
                raise InputError(f"{self.place.file} became shorter while it was read: run the same command again")
            done += got
        return torch.from_numpy(buffer).view(self.place.dtype)


@dataclass(frozen=True)
class Piece:
    """Some elements of a tensor, of all models, on the device."""

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
        """What each model changed: [models, elements] float32."""
        if self.base is None:
            raise ValueError("this method was given no base")
        return self.tensors - self.base


@dataclass(frozen=True)
class Walk:
    """All pieces of a tensor, in order, as often as they are asked for."""

    base: Source | None
    models: Sequence[Source]
    count: int
    """Elements of the tensor."""
    row: int
    key: int
    device: torch.device
    reader: ThreadPoolExecutor
    by_rows: bool = False
    """Whether rows must be whole; else blocks are."""
    size: int = PIECE
    kept: dict[int, list[Tensor]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Piece]:
        unit = max(1, self.row if self.by_rows else BLOCK)
        step = max(1, self.size // unit) * unit
        starts = range(0, self.count, step)
        waiting = self.reader.submit(self._read, 0, step)
        for start in starts:
            raw = waiting.result()
            if start + step < self.count:
                waiting = self.reader.submit(self._read, start + step, step)
            yield self._piece(raw, start)

    def _read(self, start: int, step: int) -> list[Tensor]:
        if start in self.kept:
            return self.kept[start]
        stop = min(start + step, self.count)
        raw = [source.read(start, stop) for source in self._sources]
        if sum(each.nbytes for each in raw) * self.count <= KEPT_BYTES * (stop - start):
            self.kept[start] = raw
        return raw

    @property
    def _sources(self) -> list[Source]:
        return [*([self.base] if self.base else []), *self.models]

    def _piece(self, raw: list[Tensor], start: int) -> Piece:
        stack = torch.empty(len(raw), len(raw[0]), dtype=torch.float32, device=self.device)
        for row, each in zip(stack, raw, strict=True):
            row.copy_(each)
        base, tensors = (stack[0], stack[1:]) if self.base else (None, stack)
        return Piece(base, tensors, start, self.row, self.key)


# What is found over a whole tensor ------------------------------------------------------------------------------------


def totals(walk: Walk, values: Callable[[Piece], Tensor]) -> list[float]:
    """Sums over a tensor of [rows, elements] numbers, one a row, in float64 and rounded once at the end."""
    parts = [_block_sums(values(piece)).cpu() for piece in walk]
    return [math.fsum(row) for row in torch.cat(parts, 1).tolist()]


def _block_sums(values: Tensor) -> Tensor:
    """[rows, elements] to [rows, blocks] float64: what a block gives is its own affair, however many are beside it."""
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % BLOCK))
    blocks: Tensor = padded.unflatten(1, (-1, BLOCK))
    return blocks.sum(2, dtype=torch.float64)


def squares(values: Tensor) -> Tensor:
    """Squares in float64, where those of the smallest float32 are not 0."""
    return values.double().square()


def in_order(rows: Tensor) -> Tensor:
    """Sum over the models, the first first: [models, elements] to [elements]."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def uniform(piece: Piece, model: int) -> Tensor:
    """Random numbers in [0, 1), a function of the tensor, the model and the place of an element: [elements] float32."""
    length = piece.tensors.shape[1]
    first, last = piece.start // DRAWN, (piece.start + length - 1) // DRAWN
    drawn = np.concatenate([_drawn(piece.key, model, number) for number in range(first, last + 1)])
    offset = piece.start - first * DRAWN
    numbers: Tensor = torch.from_numpy(drawn[offset : offset + length]).to(piece.tensors.device)
    return numbers


def _drawn(key: int, model: int, number: int) -> np.ndarray:
    """Philox counts: any part of the sequence is found without those before it."""
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, model]))
    drawn: np.ndarray = generator.random(DRAWN, dtype=np.float32)
    return drawn
