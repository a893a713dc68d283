"""GGUF files made by hand, byte by byte, so that they may be as odd as a test wants them."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGUFReader, GGUFValueType

T = GGUFValueType
FORMS = {
    T.UINT8: "B",
    T.INT8: "b",
    T.UINT16: "H",
    T.INT16: "h",
    T.UINT32: "I",
    T.INT32: "i",
    T.FLOAT32: "f",
    T.BOOL: "?",
    T.UINT64: "Q",
    T.INT64: "q",
    T.FLOAT64: "d",
}


class Stored(NamedTuple):
    """A tensor: what it is called, its sizes with the shortest stride first, its kind, its bytes."""

    sizes: tuple[int, ...]
    kind: int
    data: bytes


def text(value: str | bytes) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def value(kind: GGUFValueType, given: Any) -> bytes:
    """A value as it lies in a file, its type before it."""
    body = text(given) if kind == T.STRING else struct.pack("<" + FORMS[kind], given)
    return struct.pack("<I", kind) + body


def array(member: GGUFValueType, given: list[Any]) -> bytes:
    bodies = [text(each) if member == T.STRING else struct.pack("<" + FORMS[member], each) for each in given]
    return struct.pack("<IIQ", T.ARRAY, member, len(given)) + b"".join(bodies)


Values = dict[str, bytes]
Tensors = dict[str, Stored]


def taken(path: Path) -> tuple[Values, Tensors]:
    """Keys and tensors of a good file, by the library's reader."""
    reader = GGUFReader(path)
    fields = {name: each for name, each in reader.fields.items() if not name.startswith("GGUF.")}
    keys = {
        name: array(each.types[-1], each.contents())
        if each.types[0] == T.ARRAY
        else value(each.types[0], each.contents())
        for name, each in fields.items()
    }
    tensors = {
        each.name: Stored(tuple(map(int, each.shape)), int(each.tensor_type), each.data.tobytes())
        for each in reader.tensors
    }
    return keys, tensors


def built(
    keys: Mapping[str, bytes] | list[tuple[str | bytes, bytes]],
    tensors: Mapping[str, Stored] | list[tuple[str, Stored]],
    version: int = 3,
    alignment: int = 32,
    shift: int = 0,
) -> bytes:
    """A file; a list may name things twice. ``shift``: what every offset is off by."""
    pairs, stored = (list(each.items()) if isinstance(each, Mapping) else each for each in (keys, tensors))
    parts = [b"GGUF", struct.pack("<IQQ", version, len(stored), len(pairs))]
    parts += [text(name) + packed for name, packed in pairs]
    place, bodies = 0, []
    for name, each in stored:
        sizes = struct.pack(f"<I{len(each.sizes)}Q", len(each.sizes), *each.sizes)
        parts.append(text(name) + sizes + struct.pack("<IQ", each.kind, place + shift))
        padded = -(-len(each.data) // alignment) * alignment
        bodies.append(each.data.ljust(padded, b"\0"))
        place += padded
    head = b"".join(parts)
    return head.ljust(-(-len(head) // alignment) * alignment, b"\0") + b"".join(bodies)


def zeros(*sizes: int) -> Stored:
    """A tensor of float32 zeros, its sizes with the shortest stride first."""
    return Stored(sizes, 0, bytes(4 * int(np.prod(sizes))))


LAYERS, HIDDEN, HEADS, SHARED, HEAD, CHANNELS, ROWS = 3, 16, 4, 2, 4, 32, 20


def dense(arch: str = "llama", seed: int = 0) -> tuple[Values, Tensors]:
    """Keys and tensors of a small random model."""
    counts = {
        "block_count": LAYERS,
        "context_length": 64,
        "embedding_length": HIDDEN,
        "feed_forward_length": CHANNELS,
        "attention.head_count": HEADS,
        "attention.head_count_kv": SHARED,
    }
    keys = {
        "general.architecture": value(T.STRING, arch),
        "general.name": value(T.STRING, "whole"),
        **{f"{arch}.{name}": value(T.UINT32, number) for name, number in counts.items()},
        f"{arch}.attention.layer_norm_rms_epsilon": value(T.FLOAT32, 1e-5),
        "tokenizer.ggml.model": value(T.STRING, "gpt2"),
        "tokenizer.ggml.tokens": array(T.STRING, [f"t{number}" for number in range(ROWS)]),
    }
    sizes: dict[str, tuple[int, ...]] = {
        "token_embd": (HIDDEN, ROWS),
        "output_norm": (HIDDEN,),
        "output": (HIDDEN, ROWS),
    }
    for layer in range(LAYERS):
        sizes |= {f"blk.{layer}.{name}": each for name, each in BLOCK.items()}
        if arch == "qwen3":
            sizes |= {f"blk.{layer}.attn_{part}_norm": (HEAD,) for part in "qk"}
    random = np.random.default_rng(seed)
    numbers = {name: random.standard_normal(each[::-1], np.float32) for name, each in sizes.items()}
    return keys, {f"{name}.weight": Stored(sizes[name], 0, each.tobytes()) for name, each in numbers.items()}


BLOCK: dict[str, tuple[int, ...]] = {
    "attn_norm": (HIDDEN,),
    "attn_q": (HIDDEN, HEADS * HEAD),
    "attn_k": (HIDDEN, SHARED * HEAD),
    "attn_v": (HIDDEN, SHARED * HEAD),
    "attn_output": (HEADS * HEAD, HIDDEN),
    "ffn_norm": (HIDDEN,),
    "ffn_gate": (HIDDEN, CHANNELS),
    "ffn_up": (HIDDEN, CHANNELS),
    "ffn_down": (CHANNELS, HIDDEN),
}
