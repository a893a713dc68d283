"""GGUF files: a dense one read as it is, and a new one written tensor by tensor."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType, GGUFWriter

from remodeler.console import bar
from remodeler.errors import InputError
from remodeler.exporting.gguf_plan import PERMUTED, Plan, Sizes
from remodeler.exporting.gguf_tensors import Dense, Raw, Read
from remodeler.records import disk_errors

BROKEN = (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError, MemoryError)
"""What the reader raises for a file that is none, or is cut off."""
WIDTHS = ("feed_forward_length", "attention.head_count", "attention.head_count_kv", "block_count")
"""Keys that say what the layers are; written anew."""
OWN = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")
"""Keys that the writer makes."""


@dataclass(frozen=True)
class Key:
    """A value of a GGUF file and its type; of a list, that of its members too."""

    value: Any
    kind: GGUFValueType
    member: GGUFValueType | None = None


Keys = Mapping[str, Key]
"""By name; those of the architecture begin with a dot in the place of its name."""


@dataclass(frozen=True, eq=False)
class Given:
    """A GGUF file that was read."""

    dense: Dense
    keys: Keys
    depth: int


def read_gguf(path: Path) -> Given:
    """A dense GGUF file, its tensors where they lie.

    Raises:
        InputError: when it is no such file, or not whole.
    """
    try:
        reader = GGUFReader(path)
        keys = _keys(reader)
        return _given(path, reader, keys)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}): check the path") from None
    except BROKEN as error:
        raise InputError(f"{path} is no whole GGUF file ({error}): get it again") from None


def _keys(reader: GGUFReader) -> dict[str, Key]:
    arch = str(reader.fields["general.architecture"].contents())
    found = {}
    for name, field in reader.fields.items():
        member = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        shown = f".{name.removeprefix(arch + '.')}" if name.startswith(arch + ".") else name
        found[shown] = Key(field.contents(), field.types[0], member)
    return found


def _given(path: Path, reader: GGUFReader, keys: dict[str, Key]) -> Given:
    arch, depth = str(keys["general.architecture"].value), int(keys[".block_count"].value)
    hidden = int(keys[".embedding_length"].value)
    heads, channels = (_by_layer(keys[f".{name}"].value, depth) for name in (WIDTHS[1], WIDTHS[0]))
    shared = _by_layer(keys[f".{WIDTHS[2]}"].value, depth) if f".{WIDTHS[2]}" in keys else heads
    head = int(keys[".attention.key_length"].value) if ".attention.key_length" in keys else hidden // heads[0]
    tensors = {each.name: partial(Raw, each.data, each.tensor_type) for each in reader.tensors}
    missing = [layer for layer in range(depth) if f"blk.{layer}.attn_q.weight" not in tensors]
    if missing and arch in ("llama", "qwen2", "qwen3"):
        raise InputError(f"{path} has no queries in layer {missing[0]}: give a dense model of one file, not split")
    tied = "output.weight" not in tensors
    sizes = Sizes(arch, heads, shared, channels, tied)
    return Given(Dense(sizes, tensors, hidden, head, arch in PERMUTED), keys, depth)


def _by_layer(value: Any, depth: int) -> dict[int, int]:
    return dict(enumerate(map(int, value))) if isinstance(value, list) else dict.fromkeys(range(depth), int(value))


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
    writer = GGUFWriter(path, plan.arch)
    with disk_errors(path), closing(writer):
        _write_keys(writer, keys, dense, plan)
        for name, read in tensors.items():
            raw = read()
            writer.add_tensor_info(name, raw.data.shape, raw.data.dtype, raw.data.nbytes, raw.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with bar("writing") as hear:
            for number, (name, read) in enumerate(tensors.items(), 1):
                writer.write_tensor_data(read().data)
                hear(number / len(tensors), name)


def _write_keys(writer: GGUFWriter, keys: Keys, dense: Dense, plan: Plan) -> None:
    layers = plan.layers
    widths: tuple[list[int], ...] = (
        [each.channels for each in layers],
        [each.heads for each in layers],
        [each.kv_heads for each in layers],
    )
    one = plan.uniform and plan.arch == dense.sizes.arch
    writer.add_block_count(len(layers))
    writer.add_feed_forward_length(widths[0][0] if one else widths[0])
    writer.add_head_count(widths[1][0] if one else widths[1])
    writer.add_head_count_kv(widths[2][0] if one else widths[2])
    needed = {
        name: dense.head for name in (".attention.key_length", ".attention.value_length", ".rope.dimension_count")
    }
    for name, value in needed.items():
        if name not in keys:
            writer.add_uint32(f"{plan.arch}{name}", value)
    for name, key in keys.items():
        if name in OWN or name.removeprefix(".") in WIDTHS:
            continue
        full = plan.arch + name if name.startswith(".") else name
        writer.add_key_value(full, key.value, key.kind, sub_type=key.member)
