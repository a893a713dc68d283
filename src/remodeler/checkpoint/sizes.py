"""What a checkpoint takes: parameters, bytes of its files, bytes in memory where these differ, and the KV cache.

Bytes of weights are those of the tensors in the safetensors files that are loaded, and the cache is counted in their
dtype: that is what a model takes on a disk and in use, whatever it is computed in while it is pruned or measured.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import parse_local_safetensors_file_metadata
from torch import Tensor

from remodeler.checkpoint.gguf import is_gguf
from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.repositories import folder_of
from remodeler.errors import InputError
from remodeler.model.caches import returned_cache
from remodeler.model.files.gguf.reader import SUFFIX, open_gguf
from remodeler.model.files.weights import tensor_files
from remodeler.model.logprobs import vocabulary
from remodeler.model.minibatches import device_of
from remodeler.model.streaming import streamed_weights
from remodeler.model.tracing import same_inputs
from remodeler.reporting.figures import short, size
from remodeler.runs.folders import free_space, partial

logger = logging.getLogger(__name__)

CACHED = 2  # tokens read to measure the cache: fewer than any sliding window holds
STATE_BYTES = 2 * 3 * 4
"""Of a trained number on the disk: itself and two moments in float32, in a new state beside the one before."""


@dataclass(frozen=True)
class Stored:
    """The weights of a checkpoint as they are stored."""

    bytes: int
    dtype: torch.dtype
    """That most of its bytes are in."""


def stored_size(checkpoint: Checkpoint) -> Stored:
    """Bytes and dtype of a checkpoint's files; of a model that has none, what its files would be."""
    folder = folder_of(checkpoint.name, checkpoint.revision)
    counted = Counter[str]()
    with suppress(InputError):  # it has no safetensors of its own
        counted = bytes_by_dtype(tensor_files(folder)) if folder else counted
    dtype = min(checkpoint.stored_dtype or checkpoint.model.dtype, checkpoint.model.dtype, key=lambda d: d.itemsize)
    if counted:
        return Stored(counted.total(), checkpoint.stored_dtype or dtype)
    return Stored(sum(value.numel() for value in checkpoint.model.parameters()) * dtype.itemsize, dtype)


def bytes_by_dtype(files: dict[str, Path]) -> Counter[str]:
    """Bytes of tensors in safetensors files or in a GGUF file, by the name of their dtype.

    Args:
        files: by the name of a tensor the file that it is in.
    """
    counted = Counter[str]()
    for file in set(files.values()):
        if file.suffix == SUFFIX:
            counted.update(open_gguf(file).bytes_by_kind())
            continue
        for name, tensor in parse_local_safetensors_file_metadata(file).tensors.items():
            if files.get(name) == file:
                counted[tensor.dtype] += _length(tensor)
    return counted


def file_bytes(file: Path) -> int:
    """Bytes of all tensors in a safetensors file."""
    return sum(map(_length, parse_local_safetensors_file_metadata(file).tensors.values()))


def _length(tensor: Any) -> int:
    start, end = tensor.data_offsets
    return int(end - start)


def written_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of a checkpoint's weights as a verb writes them: those of its files, of quantised ones their numbers'."""
    if not is_gguf(checkpoint.name) and not checkpoint.quantised:
        return stored_size(checkpoint).bytes
    dtype = min(checkpoint.stored_dtype or checkpoint.model.dtype, checkpoint.model.dtype, key=lambda d: d.itemsize)
    return checkpoint.anatomy.parameters() * int(dtype.itemsize)


def file_sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """Parameters, and bytes of the weights as they are stored; of a model without numbers too."""
    return {"parameters": checkpoint.anatomy.parameters(), "weight_bytes": stored_size(checkpoint).bytes}


def memory(checkpoint: Checkpoint) -> dict[str, Any]:
    """Parameters, bytes of the weights as they are stored, and bytes of the KV cache for every token in it.

    Where the weights take other bytes in memory, as a bfloat16 model that is computed in float32, ``memory_bytes`` and
    ``computed_in`` say so. Tied weights count once in memory, and in files as often as they are there.
    """
    files, model = stored_size(checkpoint), checkpoint.model
    figures: dict[str, Any] = {
        "parameters": checkpoint.anatomy.parameters(),
        **_text_parameters(checkpoint),
        "weight_bytes": files.bytes,
        "kv_bytes_per_token": kv_bytes_per_token(checkpoint, files.dtype),
    }
    loaded = sum(parameter.nbytes for parameter in model.parameters())
    if loaded != files.bytes and not streamed_weights(model):
        figures |= {"memory_bytes": loaded, "computed_in": str(model.dtype).removeprefix("torch.")}
    return figures


def _text_parameters(checkpoint: Checkpoint) -> dict[str, int]:
    """Of a model of text and images the parameters of its text part, which a ratio is a share of."""
    anatomy = checkpoint.anatomy
    return {"text_parameters": anatomy.parameters() - anatomy.carried_parameters()} if anatomy.carried else {}


def sizes_in_words(figures: dict[str, Any]) -> str:
    """What :func:`memory` found, in a line."""
    words = f"{short(figures['parameters'])} parameters, {size(figures['weight_bytes'])} of weights"
    if "memory_bytes" not in figures:
        return words
    return f"{words}; computed in {figures['computed_in']}: {size(figures['memory_bytes'])} in memory"


@torch.no_grad()
def kv_bytes_per_token(checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> int:
    """Bytes that one more token adds to the cache, measured on a real one; 0 for models without.

    Layers with a sliding window count in full: they grow like the others until the window is full, and then no more.
    Sequence-to-sequence models: of one token of the input and one of the output together.

    Args:
        checkpoint: the model.
        dtype: of a cache in the model's own dtype; by default that which it is computed in.
    """
    if checkpoint.anatomy.family.task == "masked":
        return 0
    model = checkpoint.model
    inputs = same_inputs(checkpoint.anatomy.family, random_ids(checkpoint, 1, CACHED))
    tensors = _cache_tensors(returned_cache(model(**inputs, use_cache=True)))
    widths = [(dtype if dtype and each.dtype == model.dtype else each.dtype).itemsize for each in tensors]
    return sum(each.numel() * width for each, width in zip(tensors, widths, strict=True)) // CACHED


def _cache_tensors(cache: Any) -> list[Tensor]:
    """Keys and values of all layers."""
    parts = [cache] if hasattr(cache, "layers") else [cache.self_attention_cache, cache.cross_attention_cache]
    found = [getattr(layer, name, None) for part in parts for layer in part.layers for name in ("keys", "values")]
    return [tensor for tensor in found if tensor is not None]


def random_ids(checkpoint: Checkpoint, batch: int, length: int) -> Tensor:
    """Random tokens, the same at every call: [batch, length]."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary(checkpoint.model), (batch, length), generator=generator)
    return ids.to(device_of(checkpoint.model))


# The disk -------------------------------------------------------------------------------------------------------------


def announce_space(out: Path, needed: int) -> None:
    """Say so, where the disk of a result has less space than will be written; what is written already counts in.

    Args:
        out: the new file or folder.
        needed: bytes that will be written.
    """
    free, there = free_space(out), _allocated_bytes(partial(out))
    if free + there < needed:
        logger.warning(
            f"about {size(needed)} will be written, the disk of {out} has {size(free)} left: free some before it ends"
        )


def announce_training_space(out: Path, figures: Mapping[str, Any], everything: bool, copies: int = 1) -> None:
    """The same for a verb that trains.

    Args:
        out: the new folder.
        figures: ``parameters`` and ``weight_bytes`` of what is trained.
        everything: all parameters, of which states of training hold copies, unlike those of adapters.
        copies: models that are written.
    """
    states = STATE_BYTES * figures["parameters"] if everything else 0
    announce_space(out, copies * figures["weight_bytes"] + states)


def _allocated_bytes(folder: Path) -> int:
    """Bytes that a disk has given to the files in a folder."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return sum(getattr(each, "st_blocks", 0) * 512 for each in found)
