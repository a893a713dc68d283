"""Tensors in safetensors files, one by one: read and counted, written file by file as they come."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from remodeler.model.files.gguf.reader import SUFFIX, Weights, open_gguf
from remodeler.model.files.open_files import OpenFiles
from remodeler.model.files.weights import INDEX
from remodeler.runs.records import write_json

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SHARD_BYTES = 5 * 10**8
"""Of a file that is written from a model larger than memory."""


@dataclass(frozen=True)
class Counted:
    """A tensor in a file, which is opened for it: reading it is written down."""

    files: OpenFiles[Any]
    file: Path
    key: str
    read: Counter[str]

    def __getitem__(self, part: Any) -> Tensor:
        with self.files.reading(self.file) as opened:
            tensor: Tensor = opened.get_slice(self.key)[part]
        self.read[self.key] += tensor.nbytes
        return tensor

    @property
    def stored_as(self) -> tuple[str, int]:
        """Its dtype, as the file calls it, and how many elements it has."""
        with self.files.reading(self.file) as opened:
            piece = opened.get_slice(self.key)
            return piece.get_dtype(), prod(piece.get_shape())


def stored_dtype(files: dict[str, Path]) -> torch.dtype:
    """What most of the floating-point numbers are stored in; only the files' headers are read.

    Of a GGUF file: the narrowest dtype that holds all its numbers.
    """
    if gguf := next((file for file in files.values() if file.suffix == SUFFIX), None):
        return open_gguf(gguf).dtype()
    counts: Counter[torch.dtype] = Counter()
    with ExitStack() as opened:
        for _, counted in pieces(opened, files, files, Counter()):
            kind, elements = counted.stored_as
            if dtype := FLOATS.get(kind):
                counts[dtype] += elements
    return max(counts, key=counts.__getitem__, default=torch.float32)


def pieces(
    opened: ExitStack, files: dict[str, Path], keys: Iterable[str], read: Counter[str]
) -> Iterator[tuple[str, Counted]]:
    """Tensors on disk, read when they are asked for; ``opened`` ends that."""
    handles: OpenFiles[Any] = opened.enter_context(OpenFiles(_open, _close))
    for key in keys:
        yield key, Counted(handles, files[key], key, read)


def _open(file: Path) -> Any:
    if file.suffix == SUFFIX:
        return open_gguf(file)
    try:  # copies what is asked for: a mapped file counts as memory of this process
        return safe_open(file, framework="pt", backend="pread")
    except TypeError:  # an older safetensors
        return safe_open(file, framework="pt")


def _close(handle: Any) -> None:
    if not isinstance(handle, Weights):  # a GGUF file is mapped, and stays so
        handle.__exit__(None, None, None)


# Writing --------------------------------------------------------------------------------------------------------------


def write_shards(parts: Iterable[dict[str, Tensor]], folder: Path, limit: int = SHARD_BYTES) -> None:
    """Write the tensors of a model as they come, in files of at most ``limit`` bytes, or of one part.

    One file is named as transformers names a whole model; several get its index.
    """
    written: list[tuple[Path, dict[str, int]]] = []
    for tensors in _gather(parts, limit):
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


def _gather(parts: Iterable[dict[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
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
