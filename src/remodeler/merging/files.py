"""Tensors in safetensors files by their bytes: where they lie in a checkpoint, and files laid out before they are full.

The format is eight bytes with the length of a header, the header in JSON (dtype, shape and place of every tensor), and
the tensors' bytes one after the other. The safetensors library can write a file only from tensors that are all in
memory; here a file gets its header and its full size first, and each tensor is written in its place when it is made.
"""

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import torch

from remodeler.errors import InputError
from remodeler.model.files.gguf.reader import SUFFIX, open_gguf
from remodeler.model.files.weights import INDEX, tensor_files
from remodeler.runs.records import disk_errors, write_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8
_COMPUTED: dict[Path, tuple[str, torch.Tensor]] = {}
_COMPUTING = Lock()


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes are, or will be."""

    file: Path
    start: int
    """First byte in the file."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    key: str = ""
    """Of a tensor that is computed, as those of a GGUF file are: its name."""

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Number of bytes."""
        return self.count * self.dtype.itemsize


# Reading --------------------------------------------------------------------------------------------------------------


def tensor_places(folder: Path) -> dict[str, Place]:
    """Every tensor of a checkpoint, in the order in which they lie in its files.

    Raises:
        InputError: when there are no safetensors, one is damaged or a shard is missing, or a dtype can't be merged.
    """
    wanted = tensor_files(folder)
    found: dict[str, Place] = {}
    for file in sorted(set(wanted.values())):
        read = _in_gguf if file.suffix == SUFFIX else _in_file
        found |= {name: place for name, place in read(file) if wanted.get(name) == file}
    return found


def computed(place: Place) -> torch.Tensor:
    """A tensor of a GGUF file, flat, in float32; the last one of each file is kept, since it is read by pieces."""
    with _COMPUTING:
        if _COMPUTED.get(place.file, ("",))[0] != place.key:
            _COMPUTED.pop(place.file, None)
            _COMPUTED[place.file] = place.key, open_gguf(place.file).read(place.key).reshape(-1)
        return _COMPUTED[place.file][1]


def equal_values(one: Place, two: Place, dtype: torch.dtype | None = None, size: int = 2**22) -> bool:
    """Whether two tensors are equal, in ``dtype`` or else the wider of theirs; read by pieces of ``size`` elements."""
    common = dtype or torch.promote_types(one.dtype, two.dtype)
    if one.shape != two.shape:
        return False
    if one.key or two.key:  # both, being of one model
        return torch.equal(computed(one).to(common), computed(two).to(common))
    with disk_errors(one.file), one.file.open("rb") as first, disk_errors(two.file), two.file.open("rb") as second:
        for start in range(0, one.count, size):
            parts = (_part(file, place, start, size) for file, place in ((first, one), (second, two)))
            left, right = (part.to(common) for part in parts)
            if not torch.equal(left, right):
                return False
    return True


def _part(file: BinaryIO, place: Place, start: int, size: int) -> torch.Tensor:
    file.seek(place.start + start * place.dtype.itemsize)
    data = bytearray(file.read(min(size, place.count - start) * place.dtype.itemsize))
    return torch.frombuffer(data, dtype=place.dtype)


def _in_file(file: Path) -> Iterator[tuple[str, Place]]:
    entries, start = _header(file)
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in DTYPES:
            raise InputError(
                f"{name} in {file} is stored as {entry['dtype']}, which can't be merged: give unquantised checkpoints"
            )
        begin, _ = entry["data_offsets"]
        yield name, Place(file, start + begin, tuple(entry["shape"]), DTYPES[entry["dtype"]])


def _in_gguf(file: Path) -> Iterator[tuple[str, Place]]:
    weights = open_gguf(file)
    for name in weights.sources:
        yield name, Place(file, 0, tuple(weights.get_slice(name).get_shape()), torch.float32, name)


def _header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """A file's entries for its tensors, and where their bytes begin."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            size = file.stat().st_size
            entries: Any = json.loads(opened.read(length)) if length < size else None
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        if size != 8 + length + end:
            raise ValueError(f"it has {size:,} bytes, {8 + length + end:,} were expected")
    except FileNotFoundError:
        raise InputError(f"shard {file.name} is missing from {file.parent}: get the complete checkpoint") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise InputError(f"{file} is truncated or damaged ({error}): get the file again") from None
    return tensors, 8 + length


# Writing --------------------------------------------------------------------------------------------------------------


def lay_out(tensors: Iterable[tuple[str, Place]], folder: Path, limit: int) -> dict[str, Place]:
    """Places for tensors in new files of at most ``limit`` bytes each, in the given order.

    Args:
        tensors: names, and places that tell shape and dtype.
        folder: where the files will be.
        limit: bytes of a file; a tensor that is larger gets a file of its own.
    """
    files: list[dict[str, Place]] = [{}]
    room = limit
    for name, place in tensors:
        if files[-1] and place.bytes > room:
            files.append({})
            room = limit
        files[-1][name] = place
        room -= place.bytes
    names = [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    paths = [folder / name for name in (names if len(files) > 1 else ["model.safetensors"])]
    return {
        name: placed for path, part in zip(paths, files, strict=True) for name, placed in _one_file(path, part).items()
    }


def _one_file(path: Path, tensors: Mapping[str, Place]) -> dict[str, Place]:
    """Tensors one after the other behind the header."""
    start, found = len(_header_bytes(tensors)), {}
    for name, place in tensors.items():
        found[name] = Place(path, start, place.shape, place.dtype)
        start += place.bytes
    return found


def _header_bytes(tensors: Mapping[str, Place]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, place in tensors.items():
        entries[name] = {
            "dtype": NAMES[place.dtype],
            "shape": list(place.shape),
            "data_offsets": [start, start + place.bytes],
        }
        start += place.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def create_files(layout: Mapping[str, Place]) -> None:
    """Make the files of a layout, at their full size; those that are there already stay as they are."""
    by_file: dict[Path, dict[str, Place]] = {}
    for name, place in layout.items():
        by_file.setdefault(place.file, {})[name] = place
    for path, tensors in by_file.items():
        head = _header_bytes(tensors)
        size = len(head) + sum(place.bytes for place in tensors.values())
        with disk_errors(path):
            if path.exists() and path.stat().st_size == size:
                continue
            with path.open("wb") as file:
                _reserve(file.fileno(), size)
                file.write(head)
    if len(by_file) > 1:
        total = sum(place.bytes for place in layout.values())
        weights = {name: place.file.name for name, place in sorted(layout.items())}
        write_json(next(iter(by_file)).parent / INDEX, {"metadata": {"total_size": total}, "weight_map": weights})


def _reserve(file: int, size: int) -> None:
    """Claim the disk's room now, so that a full disk shows before hours of work."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
