"""Write a pruned model to a folder that loads, then load it and compare.

Nothing is trusted that was not read back: every save ends with a reload, whose logits must equal those of the model
in memory in one pass, and agree step by step with its KV cache.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from remodeler.checkpoint.companions import write_companions
from remodeler.checkpoint.compatibility import complete_config
from remodeler.checkpoint.configs import lost_pattern
from remodeler.checkpoint.forms import WHOLE, Form, Shape, build, choose, remaining
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.errors import InputError, one_line
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.caches import given_cache, returned_cache
from remodeler.model.files.shards import write_shards
from remodeler.model.logprobs import spread_tokens, vocabulary
from remodeler.model.streaming import held, is_streamed, streamed_weights
from remodeler.model.tracing import same_inputs
from remodeler.model.widths import Widths, kept_masks, masked, narrowed, refuse_widths
from remodeler.packed import write_code
from remodeler.runs.records import disk_errors
from remodeler.runs.units import Block

logger = logging.getLogger(__name__)

STEP_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far apart cached decoding and one pass may be, as a share of the largest logit: the tensors' shapes differ."""

ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6}
"""How far apart one pass of the same weights may be: where a tensor begins in memory decides how kernels split sums."""

REMOTE = '''"""Packed classes over the modelling code that came with the source model."""

from .packed import packed_class
from .{module} import {names}

{lines}
for packed in ({packed}):
    packed.__module__ = __name__  # where transformers looks when it saves them again
'''


@dataclass(frozen=True)
class Saved:
    """A written model, read back."""

    form: Form
    check: "Check"
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Check:
    """What the reloaded model showed."""

    one_pass: float
    """Largest difference of a logit from the pruned model in memory; 0 means bit for bit."""
    cached: float | None
    """Largest difference between decoding with the KV cache and one pass, as a share of the largest logit.

    None without a cache.
    """


def save_pruned(
    checkpoint: Checkpoint,
    removed: Iterable[Block],
    folder: Path,
    form: Form | None = None,
    max_shard_size: str = "5GB",
    widths: Widths = WHOLE,
) -> Saved:
    """Write the model without some blocks or some of their groups, with all that it needs to load, and check it.

    Args:
        checkpoint: the source.
        removed: blocks to leave out.
        folder: an existing folder to fill.
        form: one of ``stock``, ``packed``, ``portable``; by default the best that can hold.
        max_shard_size: largest weight file.
        widths: by block the heads or channels that stay.

    Raises:
        InputError: when the form can't hold, or the reloaded model differs.
    """
    gone = list(removed)
    refuse_widths(checkpoint.anatomy, widths)
    chosen = form or choose(checkpoint.anatomy, gone, widths)
    shape = build(checkpoint.anatomy, gone, chosen, widths)
    with disk_errors(folder), weight_errors(folder):
        if streamed_weights(checkpoint.model):
            write_config(checkpoint, shape, folder)
            write_shards(_by_layer(checkpoint, lambda: build(checkpoint.anatomy, gone, chosen, widths)), folder)
        else:
            write_weights(checkpoint, shape, folder, max_shard_size)
        write_beside(checkpoint, shape, folder)
    _tell_pattern(shape)
    again = reload(checkpoint, folder, has_code(shape))
    masks = chosen == "portable" or streamed_weights(checkpoint.model) is not None
    with in_memory(checkpoint.anatomy, gone, widths, masks):
        wanted = one_pass(checkpoint)
    dtype, device = checkpoint.model.dtype, checkpoint.device
    alike = chosen == "portable" or not (masks and widths)  # a streamed model is not sliced in memory
    return Saved(chosen, check(again, wanted, tolerance(dtype, device) if alike else STEP_TOLERANCE[dtype]), again)


def _tell_pattern(shape: Shape) -> None:
    if shape.form == "stock" and (field := lost_pattern(shape.config)):
        logger.warning(
            f"its layers are not in the order any more that a {shape.config.model_type} has by itself ({field}): "
            "transformers reads that field, llama.cpp counts layers instead and computes something else"
        )


def _written_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The stored dtype, or the one computed in where that is narrower: widening gains nothing."""
    dtype: torch.dtype = checkpoint.model.dtype
    stored = checkpoint.stored_dtype or dtype
    return min(dtype, stored, key=lambda each: each.itemsize)


@contextmanager
def weight_errors(folder: Path) -> Iterator[None]:
    """Errors of the disk, and what else safetensors says, as one sentence."""
    try:
        with disk_errors(folder):
            yield
    except SafetensorError as error:
        advice = "free some space, then run the same command again"
        raise InputError(f"the weights can't be written to {folder} ({one_line(error)}): {advice}") from error


def write_weights(checkpoint: Checkpoint, shape: Shape, folder: Path, max_shard_size: str) -> None:
    """Config and safetensors, sharded where they are large, under the names that the family's files have."""
    write_config(checkpoint, shape, folder)
    tensors = _as_stored(checkpoint, shape.tensors)
    save_torch_state_dict(tensors, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})


def write_config(checkpoint: Checkpoint, shape: Shape, folder: Path) -> None:
    """The config, with the dtype that the weights are written in, for older readers too."""
    shape.config.dtype = _written_dtype(checkpoint)
    shape.config.save_pretrained(folder)
    complete_config(folder)


def _by_layer(checkpoint: Checkpoint, built: Callable[[], Shape]) -> Iterator[dict[str, Tensor]]:
    """Tensors of a pruned model as they are written, while one layer of its source after the other is in memory."""
    done: set[str] = set()
    for index in range(len(checkpoint.anatomy.top_layers())):
        yield _as_stored(checkpoint, _readable(checkpoint, index, built, done))  # no name for it: it goes when written


def _readable(checkpoint: Checkpoint, index: int, built: Callable[[], Shape], done: set[str]) -> dict[str, Tensor]:
    """Tensors that have numbers while a layer is in memory, and had none before."""
    with held(checkpoint.model, index):
        new = {name: t for name, t in built().tensors.items() if not t.is_meta and name not in done}
    done.update(new)
    return new


def _as_stored(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the dtype and under the names that they have in files."""
    dtype = _written_dtype(checkpoint)
    cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    return {name: _own(tensor) for name, tensor in revert_weight_conversion(checkpoint.model, cast).items()}


def _own(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own: one expert of many is a view that safetensors refuses."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
    return tensor.contiguous() if whole else tensor.clone(memory_format=torch.contiguous_format)


def write_beside(checkpoint: Checkpoint, shape: Shape, folder: Path) -> None:
    """What lies beside the weights, and modelling code where the form needs some."""
    write_companions(checkpoint, folder, code=has_code(shape))
    if shape.form == "packed":
        write_code(folder)
        if has_code(shape):
            (folder / "packed_remote.py").write_text(_remote_code(shape), encoding="utf-8")


def has_code(shape: Shape) -> bool:
    """Whether the source came with modelling code of its own."""
    told: Any = shape.config.packing if shape.form == "packed" else shape.config.to_dict()
    return bool(told.get("auto_map"))


def _remote_code(shape: Shape) -> str:
    """A module that makes the packed classes of a source whose own modelling code lies beside the weights."""
    auto_map = shape.config.packing["auto_map"]
    module = auto_map["AutoConfig"].rpartition(".")[0]
    names = sorted({name.rpartition(".")[2] for name in auto_map.values()})
    lines = "\n".join(f"Packed{name} = packed_class({name})" for name in names)
    classes = ", ".join(f"Packed{name}" for name in names)
    return REMOTE.format(module=module, names=", ".join(names), lines=lines, packed=classes)


# The check ------------------------------------------------------------------------------------------------------------


def reload(checkpoint: Checkpoint, folder: Path, trust: bool) -> Checkpoint:
    """Load a written folder on the device and in the dtype of its source; ``trust`` code that its source ran too."""
    dtype = str(checkpoint.model.dtype).removeprefix("torch.")
    where = checkpoint.where() | {"stream": is_streamed(checkpoint.model)}
    return load(folder, dtype=dtype, family=checkpoint.like, trust_remote_code=trust, **where)


@contextmanager
def in_memory(anatomy: Anatomy, removed: Iterable[Block], widths: Widths, masks: bool) -> Iterator[None]:
    """The pruned model in memory: sliced, or (``masks``) of full width and without the rest by multiplication."""
    left = remaining(anatomy, widths, frozenset(removed))
    less = masked(anatomy, kept_masks(anatomy, left)) if masks else narrowed(anatomy, left)
    with less, bypassed(anatomy, removed):
        yield


@torch.no_grad()
def one_pass(checkpoint: Checkpoint) -> Tensor:
    """Logits of a few tokens: [1, length, vocabulary]."""
    logits: Tensor = checkpoint.model(**_sample(checkpoint)).logits
    return logits


@torch.no_grad()
def check(again: Checkpoint, wanted: Tensor, bound: float) -> Check:
    """Compare a reloaded model with the logits of the one in memory.

    Args:
        again: the reloaded model.
        wanted: logits of :func:`one_pass` of the pruned model in memory.
        bound: how far apart they may be, as a share of the largest.

    Raises:
        InputError: when a logit differs in one pass, or decoding with the cache goes another way.
    """
    found = one_pass(again)
    difference = (found.float() - wanted.float()).abs().max().item()
    if not difference <= bound * wanted.float().abs().max().item():
        raise InputError(
            f"the model written to {again.name} gives other logits than the pruned one in memory (by "
            f"{difference:.3g}): choose another `form`"
        )
    return Check(difference, _compare_cached(again.anatomy, _sample(again), found))


def tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """On a CPU, where the same kernels see the same shapes, what sums in another order may give; elsewhere more."""
    return ROUNDING[dtype] if device.type == "cpu" and dtype in ROUNDING else STEP_TOLERANCE[dtype]


def _sample(checkpoint: Checkpoint) -> dict[str, Tensor]:
    length = min(16, checkpoint.context or 16)
    tokens = spread_tokens(vocabulary(checkpoint.model), length)
    return same_inputs(checkpoint.anatomy.family, torch.tensor([tokens], device=checkpoint.device))


def _compare_cached(anatomy: Anatomy, inputs: dict[str, Tensor], wanted: Tensor) -> float | None:
    """Decode token by token with a cache; the largest difference from one pass. A streamed model is read twice only."""
    if anatomy.family.task != "causal":
        return None
    model: Any = anatomy.model
    width = -(-inputs["input_ids"].shape[1] // 2) if streamed_weights(model) else 1
    first, *others = inputs["input_ids"].split(width, dim=1)
    outputs = model(input_ids=first, use_cache=True)  # which makes the cache that the model wants
    steps = [outputs.logits]
    for ids in others:
        read = sum(each.shape[1] for each in steps)
        outputs = model(input_ids=ids, **given_cache(model, returned_cache(outputs), read, ids))
        steps.append(outputs.logits)
    difference = ((torch.cat(steps, 1) - wanted).float().abs().max() / wanted.float().abs().max()).item()
    if not difference <= STEP_TOLERANCE[model.dtype]:
        raise InputError(
            f"decoding with a KV cache goes another way than one pass (by {difference:.3g} of the largest logit): "
            "choose another `form`"
        )
    return difference
