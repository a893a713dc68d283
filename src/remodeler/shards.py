"""Tensors in safetensors files, one by one: read and counted, written file by file as they come."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from remodeler.errors import InputError
from remodeler.records import read_json, write_json

INDEX = "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SHARD_BYTES = 5 * 10**8
"""Of a file that is written from a model larger than memory."""


@dataclass(frozen=True)
class Counted:
    """A tensor in a file: reading it is written down."""

    piece: Any
    key: str
    read: Counter[str]

    def __getitem__(self, part: Any) -> Tensor:
        tensor: Tensor = self.piece[part]
        self.read[self.key] += tensor.nbytes
        return tensor


def tensor_files(folder: Path) -> dict[str, Path]:
    """Names of the tensors in a folder's safetensors, and which file each is in.

    Raises:
        InputError: when there are none, or one is damaged.
    """
    index = folder / INDEX
    if index.exists():
        return {key: folder / name for key, name in weight_map(index).items()}
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                found |= dict.fromkeys(opened.keys(), file)
        except SafetensorError as error:
            raise InputError(f"{file} is damaged ({error}): get it again") from None
    if not found:
        raise InputError(f"{folder} has no safetensors, which are what --stream reads: convert the checkpoint first")
    return found


def weight_map(index: Path) -> dict[str, str]:
    """File names by tensor, as an index has them."""
    try:
        return {str(key): str(name) for key, name in read_json(index)["weight_map"].items()}
    except (TypeError, KeyError, AttributeError):
        raise InputError(f"{index} has no weight_map: get the complete checkpoint") from None


def stored_dtype(files: dict[str, Path]) -> torch.dtype:
    """What most of the floating-point numbers are stored in; only the files' headers are read."""
    counts: Counter[torch.dtype] = Counter()
    with ExitStack() as opened:
        for _, counted in pieces(opened, files, files, Counter()):
            if dtype := FLOATS.get(counted.piece.get_dtype()):
                counts[dtype] += prod(counted.piece.get_shape())
    return max(counts, key=counts.__getitem__, default=torch.float32)


def pieces(
    opened: ExitStack, files: dict[str, Path], keys: Iterable[str], read: Counter[str]
) -> Iterator[tuple[str, Counted]]:
    """Tensors on disk, read when they are asked for."""
    handles: dict[Path, Any] = {}
    for key in keys:
        file = files[key]
        if file not in handles:
            handles[file] = opened.enter_context(_open(file))
        yield key, Counted(handles[file].get_slice(key), key, read)


def _open(file: Path) -> Any:
    try:  # copies what is asked for: a mapped file counts as memory of this process
        return safe_open(file, framework="pt", backend="pread")
    except TypeError:  # an older safetensors
        return safe_open(file, framework="pt")


# Writing --------------------------------------------------------------------------------------------------------------


def write_shards(parts: Iterable[dict[str, Tensor]], folder: Path, limit: int = SHARD_BYTES) -> None:
    """Write the tensors of a model as they come, in files of at most ``limit`` bytes, or of one part.

    One file is named as transformers names a whole model; several get its index.
    """
    written: list[tuple[Path, dict[str, int]]] = []
    for tensors in _gathered(parts, limit):
        file = folder / f"model-part-{len(written)}.safetensors"
        save_file(tensors, file, metadata={"format": "pt"})
        written.append((file, {name: tensor.nbytes for name, tensor in tensors.items()}))
        del tensors  # before the next ones are read
    names = [f"model-{number:05}-of-{len(written):05}.safetensors" for number in range(1, len(written) + 1)]
    for (file, _), name in zip(written, names, strict=True):
        file.rename(folder / (name if len(written) > 1 else "model.safetensors"))
    if len(written) > 1:
        places = {key: name for name, (_, sizes) in zip(names, written, strict=True) for key in sizes}
        total = sum(sum(sizes.values()) for _, sizes in written)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})


def _gathered(parts: Iterable[dict[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
    """Parts joined while they fit into a file; written before the next part is read, if that won't fit either."""
    full: dict[str, Tensor] = {}
    for part in parts:
        size = _bytes(part)
        if full and _bytes(full) + size > limit:
            yield full
            full = {}
        full |= part
        del part
        if _bytes(full) + size > limit:
            yield full
            full = {}
    if full:
        yield full


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
