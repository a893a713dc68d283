"""The tensors of a GGUF file, from those of a dense model in llama.cpp's names, whatever they are stored in.

Quantised rows are moved as bytes: quantisation runs along a row, so rows may be put in another order, or one matrix
below the other, and nothing of their numbers changes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from remodeler.errors import InputError
from remodeler.model.files.gguf.values import Raw
from remodeler.model.gguf.plan import PERMUTED, Layer, Plan, Sizes

ATTENTION_PARTS = ("attn_q", "attn_k", "attn_v")
MLP_PARTS = ("ffn_gate", "ffn_up", "ffn_down")


Read = Callable[[], Raw]
Tensors = Mapping[str, Read]
"""By llama.cpp's names, with the layers of the source: ``blk.7.attn_q.weight``."""


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense model: its tensors, and what they mean."""

    sizes: Sizes
    tensors: Tensors
    hidden: int
    head: int
    """Numbers of a head."""
    permuted: bool
    """Whether rows of queries and keys lie as in ``llama``."""


def written(dense: Dense, plan: Plan) -> dict[str, Read]:
    """By name, in the order of the file, what is to be written."""
    outside = {name: read for name, read in dense.tensors.items() if not name.startswith("blk.")}
    found = dict(outside)
    for number, layer in enumerate(plan.layers):
        for name, read in _layer(dense, plan.arch, layer):
            found[f"blk.{number}.{name}"] = read
    return found


def _layer(dense: Dense, arch: str, layer: Layer) -> Iterator[tuple[str, Read]]:
    if layer.row.attention is not None:
        yield from _attention(dense, arch, layer)
    elif layer.zero_attention:
        yield from _zero_attention(dense, arch)
    if layer.row.mlp is not None:
        yield from _own(dense, layer.row.mlp, "ffn_")
    elif layer.zero_mlp:
        yield from _zero_mlp(dense, layer.channels)


def _own(dense: Dense, source: int, start: str) -> Iterator[tuple[str, Read]]:
    """What a source layer has of one kind, as it is."""
    before = f"blk.{source}."
    for name, read in dense.tensors.items():
        if name.startswith(before + start):
            yield name.removeprefix(before), read


def _attention(dense: Dense, arch: str, layer: Layer) -> Iterator[tuple[str, Read]]:
    source = layer.row.attention or 0
    found = dict(_own(dense, source, "attn_"))
    if arch == "openelm":
        reads = [found.pop(f"{part}.weight") for part in ATTENTION_PARTS]
        yield "attn_qkv.weight", lambda: stack([read() for read in reads], f"layer {source}")
    for name, read in found.items():
        heads = {"attn_q": layer.heads, "attn_k": layer.kv_heads}.get(name.partition(".")[0])
        turned = heads is not None and (arch in PERMUTED) != dense.permuted
        yield name, _permute(read, heads or 1, arch in PERMUTED) if turned else read


def _permute(read: Read, heads: int, interleaved: bool) -> Read:
    def turned() -> Raw:
        raw = read()
        return Raw(np.ascontiguousarray(raw.data[order(len(raw.data), heads, interleaved)]), raw.kind)

    return turned


def order(rows: int, heads: int, interleaved: bool) -> NDArray[np.int64]:
    """[rows]: the rows of every head, its halves interleaved, or again one half behind the other."""
    halves = (heads, 2, rows // heads // 2) if interleaved else (heads, rows // heads // 2, 2)
    return np.arange(rows).reshape(halves).swapaxes(1, 2).reshape(-1)


def stack(parts: list[Raw], where: str) -> Raw:
    """Matrices one below the other.

    Raises:
        InputError: when they are stored in several kinds of numbers.
    """
    kinds = {part.kind for part in parts}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.name for kind in kinds))
        raise InputError(
            f"queries, keys and values of {where} are stored as {names}, which can't be one matrix: start from a file "
            "in F16 or Q8_0, and quantise the result"
        )
    return Raw(np.concatenate([part.data for part in parts]), parts[0].kind)


# Stand-ins ------------------------------------------------------------------------------------------------------------


def _zero_attention(dense: Dense, arch: str) -> Iterator[tuple[str, Read]]:
    yield "attn_norm.weight", _fill(1.0, dense.hidden)
    if arch == "openelm":
        yield "attn_qkv.weight", _fill(0.0, 3 * dense.head, dense.hidden)
        for part in ("attn_q_norm", "attn_k_norm"):
            yield f"{part}.weight", _fill(1.0, dense.head)
    else:
        for part in ATTENTION_PARTS:
            yield f"{part}.weight", _fill(0.0, dense.head, dense.hidden)
    yield "attn_output.weight", _fill(0.0, dense.hidden, dense.head)


def _zero_mlp(dense: Dense, channels: int) -> Iterator[tuple[str, Read]]:
    yield "ffn_norm.weight", _fill(1.0, dense.hidden)
    for part in MLP_PARTS:
        shape = (dense.hidden, channels) if part == "ffn_down" else (channels, dense.hidden)
        yield f"{part}.weight", _fill(0.0, *shape)


def _fill(value: float, *shape: int) -> Read:
    return lambda: Raw(np.full(shape, value, np.float32), GGMLQuantizationType.F32)
