"""GGUF files: a dense one read as it is, and a new one written tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType, size_label

from remodeler.errors import InputError
from remodeler.model.files.gguf.header import Header
from remodeler.model.files.gguf.parts import read_whole
from remodeler.model.files.gguf.values import Key, Raw, align, alignment_of, byte_count, packed_header
from remodeler.model.gguf.known import SPLIT, refuse_other, refuse_other_tensors
from remodeler.model.gguf.plan import PERMUTED, Plan, Sizes
from remodeler.model.gguf.tensors import Dense, Read
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import disk_errors

WIDTHS = ("feed_forward_length", "attention.head_count", "attention.head_count_kv", "block_count")
"""Keys that say what the layers are; written anew."""
Keys = Mapping[str, Key]
"""By name; those of the architecture begin with a dot in the place of its name."""


@dataclass(frozen=True, eq=False)
class Given:
    """A GGUF file that was read."""

    dense: Dense
    keys: Keys
    depth: int
    path: Path | None = None
    """Of a file; None for what was in memory."""


def read_gguf(path: Path) -> Given:
    """A dense GGUF file, its tensors where they lie; given the first of a split set, all of them.

    Raises:
        InputError: when it is no such file, or not whole, or has something that is not acted on.
    """
    header = read_whole(path)
    arch = refuse_other(header)
    before = f"{arch}."
    keys = {name.removeprefix(arch) if name.startswith(before) else name: key for name, key in header.keys.items()}
    return _given(header, arch, keys)


def _given(header: Header, arch: str, keys: dict[str, Key]) -> Given:
    depth, hidden = int(keys[".block_count"].value), int(keys[".embedding_length"].value)
    if depth > len(header.tensors):
        raise InputError(
            f"{header.path} has {len(header.tensors)} tensors and says it has {depth} layers: get it again"
        )
    channels, heads = (_by_layer(header, arch, keys, name, depth) for name in WIDTHS[:2])
    shared = _by_layer(header, arch, keys, WIDTHS[2], depth) if f".{WIDTHS[2]}" in keys else heads
    head = int(keys[".attention.key_length"].value) if ".attention.key_length" in keys else hidden // heads[0]
    for name in ("attention.value_length", "rope.dimension_count"):
        if f".{name}" in keys and keys[f".{name}"].value != head:
            raise InputError(f"{header.path} has heads of {head} and {arch}.{name} of another size: such are not known")
    sizes = Sizes(arch, heads, shared, channels, "output.weight" not in header.tensors)
    refuse_other_tensors(header, sizes, hidden, head)
    tensors = {name: partial(_itself, raw) for name, raw in header.tensors.items()}
    return Given(Dense(sizes, tensors, hidden, head, arch in PERMUTED), keys, depth, header.path)


def _itself(raw: Raw) -> Raw:
    return raw


def _by_layer(header: Header, arch: str, keys: Keys, name: str, depth: int) -> dict[int, int]:
    value = keys[f".{name}"].value
    if not isinstance(value, list):
        return dict.fromkeys(range(depth), int(value))
    if len(value) != depth:
        raise InputError(f"{header.path} has {depth} layers and {arch}.{name} of {len(value)}: get it again")
    return dict(enumerate(value))


# Writing --------------------------------------------------------------------------------------------------------------


def write_gguf(path: Path, keys: Keys, dense: Dense, plan: Plan, tensors: Mapping[str, Read]) -> None:
    """Write a file; every tensor is asked for twice, so that one at a time is in memory.

    Args:
        path: where.
        keys: of the dense model.
        dense: the model.
        plan: the file's layers.
        tensors: what is written, in order.
    """
    places = {name: (raw.shape, raw.kind) for name, raw in ((name, read()) for name, read in tensors.items())}
    written = _keys_by_name(keys, dense, plan) | _size_keys(
        keys, dense, sum(prod(shape) for shape, _ in places.values())
    )
    alignment = alignment_of(written)
    with disk_errors(path), path.open("wb") as file, progress_bar("writing") as progress:
        file.write(packed_header(written, places))
        for number, (name, read) in enumerate(tensors.items(), 1):
            file.write(np.ascontiguousarray(read().data).data)
            size = byte_count(*places[name])
            file.write(bytes(align(size, alignment) - size))
            progress(number / len(tensors), name)


def _keys_by_name(keys: Keys, dense: Dense, plan: Plan) -> dict[str, Key]:
    """The keys of a file by their names in full: what its layers are, and what was there before."""
    layers, arch = plan.layers, plan.arch
    one = plan.uniform and arch == dense.sizes.arch
    widths: dict[str, Any] = {
        "feed_forward_length": [each.channels for each in layers],
        "attention.head_count": [each.heads for each in layers],
        "attention.head_count_kv": [each.kv_heads for each in layers],
    }
    found = {"general.architecture": Key(arch, GGUFValueType.STRING), f"{arch}.block_count": _count(len(layers))}
    for name, value in widths.items():
        found[f"{arch}.{name}"] = _count(value[0]) if one else Key(value, GGUFValueType.ARRAY, GGUFValueType.INT32)
    for name in (".attention.key_length", ".attention.value_length", ".rope.dimension_count"):
        if name not in keys:
            found[arch + name] = _count(dense.head)
    copied = {name: key for name, key in keys.items() if name.removeprefix(".") not in WIDTHS}
    return found | {
        arch + name if name.startswith(".") else name: key
        for name, key in copied.items()
        if name not in ("general.architecture", *SPLIT)
    }


def _size_keys(keys: Keys, dense: Dense, total: int) -> dict[str, Key]:
    """What a file tells of its size, where that changes."""
    stated = {name for name in ("general.parameter_count", "general.size_label") if name in keys}
    if not stated or total == sum(prod(read().shape) for read in dense.tensors.values()):
        return {}
    found = {
        "general.parameter_count": Key(total, GGUFValueType.UINT64),
        "general.size_label": Key(size_label(total, 0, 0, 0), GGUFValueType.STRING),
    }
    return {name: found[name] for name in stated}


def _count(value: int) -> Key:
    return Key(value, GGUFValueType.UINT32)
