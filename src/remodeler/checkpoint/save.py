"""Write a pruned model to a folder that loads, then load it and compare.

Nothing is trusted that was not read back: every save ends with a reload, whose logits must equal those of the model
in memory in one pass, and agree step by step with its KV cache.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from remodeler.checkpoint.carried import Carried, carried_along, in_parts
from remodeler.checkpoint.companions import write_companions
from remodeler.checkpoint.compatibility import complete_config
from remodeler.checkpoint.forms import WHOLE, Form, Shape, build, choose, remaining
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.remote_code import has_code, remote_code
from remodeler.checkpoint.signatures import lost_pattern
from remodeler.checkpoint.stacks import lacks_caches
from remodeler.checkpoint.stepwise import STEP_TOLERANCE, compare_cached
from remodeler.errors import InputError, one_line
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.files.shards import SHARD_BYTES, write_shards
from remodeler.model.logprobs import spread_tokens, vocabulary
from remodeler.model.streaming import held, is_streamed, streamed_weights
from remodeler.model.tracing import same_inputs
from remodeler.model.widths import Widths, kept_masks, masked, narrowed, refuse_widths
from remodeler.packed import write_code
from remodeler.runs.records import disk_errors
from remodeler.runs.units import Block

logger = logging.getLogger(__name__)

ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6}
"""How far apart one pass of the same weights may be: where a tensor begins in memory decides how kernels split sums."""


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
    keep_ahead: bool = True,
) -> Saved:
    """Write the model without some blocks or some of their groups, with all that it needs to load, and check it.

    Args:
        checkpoint: the source.
        removed: blocks to leave out.
        folder: an existing folder to fill.
        form: one of ``stock``, ``packed``, ``portable``; by default the best that can hold.
        max_shard_size: largest weight file.
        widths: by block the heads or channels that stay.
        keep_ahead: whether layers that predict tokens further ahead (MTP) are carried along.

    Raises:
        InputError: when the form can't hold, or the reloaded model differs.
    """
    gone = list(removed)
    refuse_widths(checkpoint.anatomy, widths)
    chosen = form or choose(checkpoint.anatomy, gone, widths)
    shape = build(checkpoint.anatomy, gone, chosen, widths)
    carried = carried_along(checkpoint, shape.config, keep_ahead)
    with disk_errors(folder), weight_errors(folder):
        if streamed_weights(checkpoint.model):
            write_config(checkpoint, shape, folder)
            layers = _by_layer(
                checkpoint, lambda: carried.others(build(checkpoint.anatomy, gone, chosen, widths).tensors)
            )
            write_shards(chain(layers, in_parts(carried, SHARD_BYTES)), folder)
        else:
            write_weights(checkpoint, shape, folder, max_shard_size, carried)
        write_beside(checkpoint, shape, folder)
    _tell_pattern(shape)
    _tell_caches(shape)
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


def _tell_caches(shape: Shape) -> None:
    if shape.form == "stock" and lacks_caches(shape.config):
        logger.warning(
            "its decoder is deeper than its encoder, whose layers transformers counts to make the decoder's cache: "
            "generate fails in stock transformers unless use_cache=False; the packed form has no such limit"
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


def write_weights(checkpoint: Checkpoint, shape: Shape, folder: Path, max_shard_size: str, carried: Carried) -> None:
    """Config and safetensors, sharded where they are large, under the names that the family's files have."""
    write_config(checkpoint, shape, folder)
    tensors = _as_stored(checkpoint, carried.others(shape.tensors)) | dict(carried.read())
    save_torch_state_dict(tensors, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})


def write_config(checkpoint: Checkpoint, shape: Shape, folder: Path) -> None:
    """The config, with the dtype that the weights are written in, for older readers too."""
    shape.config.dtype = _written_dtype(checkpoint)
    shape.config.save_pretrained(folder)
    complete_config(folder)


def _by_layer(checkpoint: Checkpoint, built: Callable[[], dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Tensors of a pruned model as they are written, while one layer of its source after the other is in memory."""
    done: set[str] = set()
    for index in range(len(checkpoint.anatomy.top_layers())):
        yield _as_stored(checkpoint, _readable(checkpoint, index, built, done))  # no name for it: it goes when written


def _readable(
    checkpoint: Checkpoint, index: int, built: Callable[[], dict[str, Tensor]], done: set[str]
) -> dict[str, Tensor]:
    """Tensors that have numbers while a layer is in memory, and had none before."""
    with held(checkpoint.model, index):
        new = {name: t for name, t in built().items() if not t.is_meta and name not in done}
    done.update(new)
    return new


def _as_stored(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the dtype and under the names that they have in files."""
    dtype = _written_dtype(checkpoint)
    cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    with _found_by_name(checkpoint.model, cast):
        return {name: _own(tensor) for name, tensor in revert_weight_conversion(checkpoint.model, cast).items()}


@contextmanager
def _found_by_name(model: Any, tensors: dict[str, Tensor]) -> Iterator[None]:
    """transformers asks a model for shapes by the names that tensors are written under, which the source has not."""
    own = model.get_parameter
    vars(model)["get_parameter"] = lambda name: tensors[name] if name in tensors else own(name)
    try:
        yield
    finally:
        del vars(model)["get_parameter"]


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
            (folder / "packed_remote.py").write_text(remote_code(shape), encoding="utf-8")


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
    return Check(difference, compare_cached(again.anatomy, _sample(again), found))


def tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """On a CPU, where the same kernels see the same shapes, what sums in another order may give; elsewhere more."""
    return ROUNDING[dtype] if device.type == "cpu" and dtype in ROUNDING else STEP_TOLERANCE[dtype]


def _sample(checkpoint: Checkpoint) -> dict[str, Tensor]:
    length = min(16, checkpoint.context or 16)
    tokens = spread_tokens(vocabulary(checkpoint.model), length)
    return same_inputs(checkpoint.anatomy.family, torch.tensor([tokens], device=checkpoint.device))
