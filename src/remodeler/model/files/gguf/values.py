"""What GGUF files are made of: keys with their values, tensors, and how a header is packed."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from remodeler.errors import InputError, one_line

MAGIC, VERSION = b"GGUF", 3
ALIGNMENT, ALIGNMENT_KEY = 32, "general.alignment"
NUMBERS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
"""Numpy's names of the types of numbers."""
PLAIN = {
    GGMLQuantizationType.F32: "<f4",
    GGMLQuantizationType.F16: "<f2",
    GGMLQuantizationType.F64: "<f8",
    GGMLQuantizationType.I8: "<i1",
    GGMLQuantizationType.I16: "<i2",
    GGMLQuantizationType.I32: "<i4",
    GGMLQuantizationType.I64: "<i8",
}
"""Kinds of tensors that numpy has; rows of others are bytes."""


@dataclass(frozen=True)
class Key:
    """A value of a GGUF file and its type; of a list, that of its members too."""

    value: Any
    kind: GGUFValueType
    member: GGUFValueType | None = None
    packed: bytes | None = field(default=None, repr=False)
    """As it lies in a file that was read, its type before it."""


@dataclass(frozen=True, eq=False)
class Raw:
    """A tensor as it lies in a file: rows of numbers, or of bytes."""

    data: NDArray[Any]
    kind: GGMLQuantizationType

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the numbers, the rows first."""
        block, size = (1, 1) if self.kind in PLAIN else GGML_QUANT_SIZES[self.kind]
        return (*self.data.shape[:-1], self.data.shape[-1] // size * block)


class Damaged(ValueError):
    """What is wrong with a file's bytes."""


def printable(name: str) -> str:
    """A name out of a file, on one line whatever is in it."""
    return (name if name.isprintable() else ascii(name))[:80]


def byte_count(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """How many bytes a tensor takes."""
    block, size = GGML_QUANT_SIZES[kind]
    return prod(shape) // block * size


def packed_header(
    keys: Mapping[str, Key], tensors: Mapping[str, tuple[tuple[int, ...], GGMLQuantizationType]]
) -> bytes:
    """The header of a file, up to where its first tensor begins.

    Args:
        keys: by their names in full.
        tensors: shape and kind of each, in order.
    """
    alignment = alignment_of(keys)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(keys))]
    for name, key in keys.items():
        parts += [_packed_text(name), key.packed if key.packed is not None else _pack(name, key)]
    place = 0
    for name, (shape, kind) in tensors.items():
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        parts += [_packed_text(name), sizes, struct.pack("<IQ", kind, place)]
        place += align(byte_count(shape, kind), alignment)
    whole = b"".join(parts)
    return whole + bytes(align(len(whole), alignment) - len(whole))


def align(size: int, alignment: int) -> int:
    """A size up to the next multiple of the alignment."""
    return -(-size // alignment) * alignment


def alignment_of(keys: Mapping[str, Key]) -> int:
    """What the tensors of a file are aligned to."""
    key = keys.get(ALIGNMENT_KEY)
    if key is None:
        return ALIGNMENT
    if key.kind != GGUFValueType.UINT32 or key.value < 1 or key.value & (key.value - 1):
        raise Damaged(f"{ALIGNMENT_KEY} is no power of two")
    return int(key.value)


def _pack(name: str, key: Key) -> bytes:
    try:
        if key.member is None:
            return struct.pack("<I", key.kind) + _packed_value(key.value, key.kind)
        text = key.member == GGUFValueType.STRING
        members = b"".join(map(_packed_text, key.value)) if text else _packed_value(key.value, key.member)
    except (OverflowError, FloatingPointError, UnicodeEncodeError) as error:
        raise InputError(f"{name} can't be written into a GGUF file ({one_line(error)}): correct it") from None
    return struct.pack("<IIQ", key.kind, key.member, len(key.value)) + members


def _packed_value(value: Any, kind: GGUFValueType) -> bytes:
    """A text, a number, or numbers one behind the other."""
    if kind == GGUFValueType.STRING:
        return _packed_text(value)
    real = kind in (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64)
    numbers = np.array(value, np.float64 if real else NUMBERS[kind])
    with np.errstate(over="raise"):
        return numbers.astype(NUMBERS[kind]).tobytes()


def _packed_text(text: str) -> bytes:
    value = text.encode(errors="surrogateescape")
    return struct.pack("<Q", len(value)) + value
