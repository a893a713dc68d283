"""The header of a GGUF file, as llama.cpp reads it (``ggml/src/gguf.cpp``): keys, and where the tensors lie.

The reader of the package gguf (0.19) flattens arrays of arrays, forgets what an empty array is of, and reads on for
hours where a length is damaged; its writer takes no empty array and does not follow ``general.alignment``. So values
keep their bytes here: what is copied is copied exactly, also where it is no UTF-8.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from remodeler.errors import InputError
from remodeler.model.files.gguf.values import (
    MAGIC,
    NUMBERS,
    PLAIN,
    VERSION,
    Damaged,
    Key,
    Raw,
    align,
    alignment_of,
    byte_count,
    printable,
)

DIMENSIONS, NAME_BYTES = 4, 63
"""The most that llama.cpp takes of a tensor."""


@dataclass(frozen=True, eq=False)
class Header:
    """A file that was read; tensors are read when they are looked at."""

    path: Path
    keys: Mapping[str, Key]
    tensors: Mapping[str, Raw]
    parts: tuple[Path, ...] = ()
    """All files, where there are several; ``path`` is the first."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that it lies in."""
        return self.parts or (self.path,)


# Reading --------------------------------------------------------------------------------------------------------------


def read_header(path: Path) -> Header:
    """Keys and tensors of a file.

    Raises:
        InputError: when it is no GGUF file that llama.cpp reads, or not whole.
    """
    try:
        if not path.is_file():
            path.stat()  # says why it can't be read
            raise InputError(f"{path} is no file: give a GGUF file")
        with path.open("rb") as file:
            start = file.read(8)
        _refuse_other_version(path, start)
        return _read(path, np.memmap(path, np.uint8, "r"))
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}): check the path") from None
    except (Damaged, OverflowError) as error:
        raise InputError(f"{path} is no whole GGUF file ({error}): get it again") from None


def _refuse_other_version(path: Path, start: bytes) -> None:
    if len(start) < 8 or start[:4] != MAGIC:
        raise Damaged("it does not begin with GGUF and a version" if start else "it is empty")
    version = int.from_bytes(start[4:], "little")
    if version and not version & 0xFFFF:
        raise InputError(f"{path} was written for big-endian machines: convert it with gguf-convert-endian first")
    if version not in (2, VERSION):
        raise InputError(f"{path} is GGUF version {version}, 2 or 3 was expected: get it in another version")


@dataclass
class _Cursor:
    """A place in a file; what is taken there must be there."""

    data: memoryview
    place: int = 0

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.place:
            raise Damaged("it ends before its header does")
        self.place += size
        return self.data[self.place - size : self.place]

    def number(self, form: str) -> int:
        found: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return found

    def text(self) -> bytes:
        return bytes(self.take(self.number("<Q")))

    def name(self) -> str:
        try:
            return self.text().decode()
        except UnicodeDecodeError:
            raise Damaged("a name in it is no UTF-8") from None


def _read(path: Path, data: NDArray[np.uint8]) -> Header:
    cursor = _Cursor(data.data, 8)
    tensors, count = cursor.number("<Q"), cursor.number("<Q")
    keys = _once(_keys(cursor, count), "key")
    places = _once(_places(cursor, tensors), "tensor")
    alignment = alignment_of(keys)
    begin = align(cursor.place, alignment)
    return Header(path, keys, dict(_tensors(data, begin, alignment, places)))


def _once(pairs: Iterator[tuple[str, Any]], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Damaged(f"the {what} {printable(name)} is there twice")
        found[name] = value
    return found


# Keys -----------------------------------------------------------------------------------------------------------------


def _keys(cursor: _Cursor, count: int) -> Iterator[tuple[str, Key]]:
    for _ in range(count):
        name = cursor.name()
        begin = cursor.place
        kind = _kind(cursor, name)
        member = _kind(cursor, name) if kind == GGUFValueType.ARRAY else None
        value = _value(cursor, kind) if member is None else _list(cursor, member, name)
        yield name, Key(value, kind, member, bytes(cursor.data[begin : cursor.place]))


def _kind(cursor: _Cursor, name: str) -> GGUFValueType:
    number = cursor.number("<I")
    try:
        return GGUFValueType(number)
    except ValueError:
        raise Damaged(f"{printable(name)} is of the unknown type {number}") from None


def _value(cursor: _Cursor, kind: GGUFValueType) -> Any:
    if kind == GGUFValueType.STRING:
        return _text(cursor.text())
    number = np.dtype(NUMBERS[kind])
    return np.frombuffer(cursor.take(number.itemsize), number)[0].item()


def _list(cursor: _Cursor, member: GGUFValueType, name: str) -> list[Any]:
    count = cursor.number("<Q")
    if member == GGUFValueType.ARRAY:
        raise Damaged(f"{printable(name)} is an array of arrays, which llama.cpp does not read")
    if member == GGUFValueType.STRING:
        return [_text(cursor.text()) for _ in range(count)]
    number = np.dtype(NUMBERS[member])
    found: list[Any] = np.frombuffer(cursor.take(count * number.itemsize), number).tolist()
    return found


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


# Tensors --------------------------------------------------------------------------------------------------------------

_Place = tuple[tuple[int, ...], GGMLQuantizationType, int]
"""A tensor's shape, its kind, and how far behind the header it begins."""


def _places(cursor: _Cursor, count: int) -> Iterator[tuple[str, _Place]]:
    for _ in range(count):
        name = cursor.name()
        if len(name.encode()) > NAME_BYTES:
            raise Damaged(f"the name of the tensor {printable(name)} is too long")
        dimensions = cursor.number("<I")
        if not 1 <= dimensions <= DIMENSIONS:
            raise Damaged(f"the tensor {printable(name)} has {dimensions} dimensions")
        shape = tuple(cursor.number("<Q") for _ in range(dimensions))[::-1]  # it lists the shortest stride first
        yield name, (shape, _tensor_kind(cursor.number("<I"), shape, name), cursor.number("<Q"))


def _tensor_kind(number: int, shape: tuple[int, ...], name: str) -> GGMLQuantizationType:
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise Damaged(f"the tensor {printable(name)} is of the unknown kind {number}") from None
    if 0 in shape or shape[-1] % GGML_QUANT_SIZES[kind][0]:
        raise Damaged(f"the tensor {printable(name)} has rows of {shape[-1]}, which {kind.name} can't hold")
    return kind


def _tensors(
    data: NDArray[np.uint8], begin: int, alignment: int, places: Mapping[str, _Place]
) -> Iterator[tuple[str, Raw]]:
    expected = 0
    for name, (shape, kind, offset) in places.items():
        size = byte_count(shape, kind)
        if offset != expected:
            raise Damaged(f"the tensor {printable(name)} begins at {offset}, {expected} was expected")
        if begin + offset + size > len(data):
            raise Damaged(f"it ends before the tensor {printable(name)} does")
        stored = data[begin + offset : begin + offset + size]
        rows = (*shape[:-1], shape[-1] // GGML_QUANT_SIZES[kind][0] * GGML_QUANT_SIZES[kind][1])
        yield name, Raw(stored.view(PLAIN[kind]).reshape(shape) if kind in PLAIN else stored.reshape(rows), kind)
        expected += align(size, alignment)
