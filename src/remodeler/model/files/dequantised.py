"""Tensors of quantised checkpoints as numbers: each is computed in bfloat16 when it is asked for.

FP8 (DeepSeek-V3, arXiv:2412.19437, section 3.3): a number is stored in 8 bits and multiplied by the scale of its
block, of its row or of its tensor. MXFP4 (OCP Microscaling Formats 1.0): 32 numbers of 4 bits (E2M1) share a power of
two. The products are taken in float32 and rounded once.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from remodeler.errors import InputError

Blocks = tuple[int, int] | None
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What four bits stand for, without the sign, which is the highest of them."""
FP8 = ("F8_E4M3", "F8_E5M2")
WIDE = ("F64", "F32", "F16")
MX_BLOCK = 32
EXPERTS = (".experts.gate_up_proj", ".experts.down_proj")
"""Endings of what is known to be stored in MXFP4, with rows and columns swapped, as in gpt-oss."""
BIAS = 127
"""Of the exponents that scales of one byte are."""
ACTIVATIONS = re.compile(r"\.(input_scale|activation_scale|qscale_act|[kv]_scale|kv_scale)$")
"""Scales of what runs through a quantised model, which is not quantised here."""


@dataclass(frozen=True, eq=False)
class Part:
    """A tensor that is computed when its numbers are asked for, as safetensors has such."""

    shape: tuple[int, ...]
    compute: Callable[[], Tensor]

    def get_dtype(self) -> str:
        """As safetensors calls what it is computed in."""
        return "BF16"

    def get_shape(self) -> list[int]:
        """Of the numbers."""
        return list(self.shape)

    def __getitem__(self, part: Any) -> Tensor:
        found: Tensor = self.compute()[part]
        return found


Scale = tuple[Sequence[str], str, str]
"""Dtypes and ending of the names of quantised tensors, and the ending of their scales' names."""
Stored = Mapping[str, Any]
"""Slices of safetensors, by the names of their tensors."""


def open_slices(files: Mapping[str, Path]) -> dict[str, Any]:
    """Tensors on disk, which are not read yet; a file is closed when none of its slices is held any more."""
    handles = {file: safe_open(file, framework="pt") for file in set(files.values())}
    return {key: handles[file].get_slice(key) for key, file in files.items()}


# FP8 ------------------------------------------------------------------------------------------------------------------


def scaled(stored: Tensor, scales: Tensor, blocks: Blocks = None) -> Tensor:
    """Numbers of 8 bits times their scales, in bfloat16.

    Args:
        stored: [..., rows, columns] in FP8.
        scales: [..., ceil(rows / block rows), ceil(columns / block columns)], or [rows, 1], or one number; bytes are
            exponents of two (E8M0).
        blocks: rows and columns of a block. The last ones may be cut off.

    Raises:
        ValueError: for scales of another shape.
    """
    factors = torch.exp2(scales.float() - BIAS) if scales.dtype == torch.uint8 else scales.float()
    return (stored.float() * _spread(factors, tuple(stored.shape), blocks)).bfloat16()


def _spread(factors: Tensor, shape: tuple[int, ...], blocks: Blocks) -> Tensor:
    """A factor for every number, or one that multiplies all of them."""
    if factors.numel() == 1:
        return factors.reshape(())
    *before, rows, columns = shape
    if blocks and tuple(factors.shape) == (*before, -(-rows // blocks[0]), -(-columns // blocks[1])):
        tall = factors.repeat_interleave(blocks[0], -2)[..., :rows, :]
        return tall.repeat_interleave(blocks[1], -1)[..., :columns]
    if tuple(factors.shape) in ((*before, rows, 1), (*before, 1, 1)):
        return factors
    raise ValueError(f"scales {list(factors.shape)} do not fit {list(shape)} in blocks of {blocks}")


def _scale_names(key: str) -> list[str]:
    """What the scale of a weight may be called: by DeepSeek, AutoFP8, DeepSeek-V4 and Mistral."""
    path = key.removesuffix(".weight")
    return [f"{key}_scale_inv", f"{key}_scale", f"{path}.scale", f"{path}.qscale_weight"]


def fp8_parts(name: str, slices: Stored, blocks: Blocks) -> dict[str, Any]:
    """The tensors of a checkpoint in FP8, by their names, without scales.

    Args:
        name: of the checkpoint, for people.
        slices: what it stores.
        blocks: rows and columns that have a scale; None for scales of whole tensors or rows.

    Raises:
        InputError: for a tensor without its scale, or with one of another shape.
    """
    quantised = [key for key, each in slices.items() if each.get_dtype() in FP8]
    pairs = {key: _scale_of(name, key, slices) for key in quantised}
    gone = {*pairs.values(), *filter(ACTIVATIONS.search, slices)}
    parts = {key: _scaled_part(name, key, slices[key], slices[scale], blocks) for key, scale in pairs.items()}
    return {key: parts.get(key) or as_bfloat16(each) for key, each in slices.items() if key not in gone}


def _scale_of(name: str, key: str, slices: Stored) -> str:
    names = _scale_names(key)
    if found := next((each for each in names if each in slices), None):
        return found
    raise InputError(
        f"{key} of {name} is quantised (FP8) and its scale {names[0]} is missing: get the complete checkpoint"
    )


def _scaled_part(name: str, key: str, stored: Any, scales: Any, blocks: Blocks) -> Part:
    shape = tuple(stored.get_shape())
    try:
        _spread(torch.empty(scales.get_shape(), device="meta"), shape, blocks)
    except ValueError as error:
        raise InputError(
            f"{key} of {name} can't be dequantised ({error}): correct weight_block_size in config.json"
        ) from None
    return Part(shape, lambda: scaled(_whole(stored), _whole(scales), blocks))


# MXFP4 ----------------------------------------------------------------------------------------------------------------


def microscaled(blocks: Tensor, scales: Tensor) -> Tensor:
    """Numbers of 4 bits times powers of two, in bfloat16, as gpt-oss's experts have them.

    Args:
        blocks: [experts, columns, blocks, 16], two numbers a byte, the lower bits first.
        scales: [experts, columns, blocks], exponents of two plus 127.

    Returns:
        [experts, 32 x blocks, columns]
    """
    table = torch.tensor([*E2M1, *(-each for each in E2M1)], device=blocks.device)
    pairs = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2)
    numbers = table[pairs.int()] * torch.exp2(scales.float() - BIAS).unsqueeze(-1)
    return numbers.bfloat16().flatten(-2).transpose(1, 2).contiguous()


def mxfp4_parts(name: str, slices: Stored) -> dict[str, Any]:
    """The tensors of a checkpoint with experts in MXFP4, by the names of the model's parameters.

    Raises:
        InputError: for blocks without scales or the other way round, or of another shape.
    """
    ends = ("_blocks", "_scales")
    found = sorted({key[: -len(end)] for key in slices for end in ends if key.endswith(end)})
    parts = {key: _microscaled_part(name, key, slices, ends) for key in found}
    whole = {key: as_bfloat16(each) for key, each in slices.items() if not key.endswith(ends)}
    return whole | parts


def _microscaled_part(name: str, key: str, slices: Stored, ends: tuple[str, str]) -> Part:
    if not key.endswith(EXPERTS):
        raise InputError(f"{key} of {name} is quantised (MXFP4), which is known of experts alone: give it unquantised")
    if lost := next((key + end for end in ends if key + end not in slices), None):
        raise InputError(f"{key} of {name} is quantised (MXFP4) and {lost} is missing: get the complete checkpoint")
    blocks, scales = (slices[key + end] for end in ends)
    shape, others = blocks.get_shape(), scales.get_shape()
    if len(shape) != 4 or shape[-1] != MX_BLOCK // 2 or shape[:-1] != others:
        raise InputError(
            f"{key} of {name} can't be dequantised: its blocks {shape} and scales {others} do not belong together"
        )
    experts, columns, count, _ = shape
    return Part((experts, MX_BLOCK * count, columns), lambda: microscaled(_whole(blocks), _whole(scales)))


# Other methods --------------------------------------------------------------------------------------------------------


def refuse_scaleless(name: str, slices: Stored, wanted: Sequence[Scale]) -> None:
    """Refuse a checkpoint with a quantised tensor whose scale is missing.

    Args:
        name: of the checkpoint, for people.
        slices: what it stores.
        wanted: dtypes and ending of what has a scale, and the ending of that.

    Raises:
        InputError: by the name of the scale.
    """
    for dtypes, ending, scale in wanted:
        for key in (key for key, each in slices.items() if key.endswith(ending) and each.get_dtype() in dtypes):
            if (lost := key.removesuffix(ending) + scale) not in slices:
                raise InputError(f"{key} of {name} is quantised and {lost} is missing: get the complete checkpoint")


# What is not quantised ------------------------------------------------------------------------------------------------


def as_bfloat16(stored: Any) -> Any:
    """A stored tensor; one of wider numbers as it will be written."""
    if stored.get_dtype() not in WIDE:
        return stored
    return Part(tuple(stored.get_shape()), lambda: _whole(stored).bfloat16())


def _whole(stored: Any) -> Tensor:
    found: Tensor = stored[...]
    return found
