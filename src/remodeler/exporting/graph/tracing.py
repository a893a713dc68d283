"""A decoder as one graph, traced by transformers' own exporters: tokens and the KV cache in, logits and the cache out.

The cache may be empty, so that one graph reads a prompt and decodes, and weights are written once. Batch, new tokens
and past may have any length; the mask is an input, so prompts of a batch may be padded on the left.

Where we deviate: transformers' ``export_for_generation`` writes a graph for the prompt and one for a token, each with
all weights, and lets a sliding layer forget. Whether such a cache is full yet is decided in Python, which a graph
freezes. Here every layer keeps all, and its mask hides what it would have forgotten.
"""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from remodeler.checkpoint.configs import own_config, unpack_config
from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError, one_line
from remodeler.model.caches import cache_keyword
from remodeler.model.logprobs import vocabulary

BATCH, PAST, NEW, PADDED = 2, 17, 3, 3
"""Sizes of what is traced: all above one, which tracing would take for a constant, and one prompt padded."""

STRETCHED = ("dynamic", "longrope")
"""Rotary positions whose frequencies depend on how long a text is."""


def refuse(checkpoint: Checkpoint) -> None:
    """Refuse what a graph would get wrong where a short check does not see it.

    Raises:
        InputError: by name, with what to use.
    """
    found = stretches(checkpoint.model.config.to_dict())
    if found:
        raise InputError(
            f"{checkpoint.name} stretches its rotary positions by the length of the text ({found[0]}), which a graph "
            "freezes: use the folder as it is, in transformers or vLLM"
        )


def stretches(told: Any) -> list[str]:
    """Kinds of such positions that a config names, at any depth."""
    if not isinstance(told, dict):
        return []
    own = [told[key] for key in ("rope_type", "type") if told.get(key) in STRETCHED]
    return [*own, *(kind for value in told.values() for kind in stretches(value))]


def exporters() -> Any:
    """transformers' exporters; it does not type them as others import them."""
    return import_module("transformers.exporters")


def call(model: Any, ids: Tensor, mask: Tensor, cache: DynamicCache) -> dict[str, Any]:
    """What a decoder is called with.

    Args:
        model: which may take no positions.
        ids: [batch, new].
        mask: [batch, past + new], zeros where a prompt is padded.
        cache: of the past.
    """
    places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    taken = inspect.signature(model.forward).parameters
    return {name: value for name, value in given.items() if name in taken} | {cache_keyword(model): cache}


@torch.no_grad()
def sample(model: Any, batch: int = BATCH) -> dict[str, Any]:
    """What a graph is traced with: a few tokens behind a few others, the first row padded."""
    ids = torch.arange(batch * (PAST + NEW)).reshape(batch, -1) % (vocabulary(model) - 3) + 3
    mask = torch.ones_like(ids)
    mask[0, :PADDED] = 0
    cache = DynamicCache()
    model(**call(model, ids[:, :PAST], mask[:, :PAST], cache), use_cache=True)
    return call(model, ids[:, PAST:], mask, cache)


def no_past(cache: DynamicCache, batch: int) -> DynamicCache:
    """A cache of the same heads that holds no tokens."""
    empty, layers = DynamicCache(), cast(list[Any], cache.layers)
    for index, layer in enumerate(layers):
        keys, values = (part.new_zeros(batch, part.shape[1], 0, part.shape[3]) for part in (layer.keys, layer.values))
        empty.update(keys, values, index)
    return empty


def plain_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """The config that lies beside a graph: the stock class, which transformers reads without our code."""
    config = own_config(checkpoint.anatomy)
    config = unpack_config(config) if hasattr(config, "packing") else config
    if hasattr(config, "auto_map"):
        del config.auto_map  # the code is in the graph
    return config


def trace(checkpoint: Checkpoint, write: Callable[[Any], Any], target: str) -> Any:
    """The graph, as transformers' ``ExportedModel``.

    Args:
        checkpoint: in float32, on the CPU; the model is put back as it was.
        write: has it from one of transformers' exporters.
        target: its name for people.

    Raises:
        InputError: for a model that the exporter can't trace.
    """
    model = checkpoint.model
    try:
        with silence(), restored_settings(model):
            found = write(model)
    except Exception as error:  # tracing runs all of torch: what it raises has no class in common
        raise InputError(
            f"transformers' exporter can't write {checkpoint.name} ({model.config.model_type}) as {target} "
            f"({type(error).__name__}: {one_line(error)}): use the folder as it is, in transformers or vLLM, or "
            "another `to`"
        ) from error
    found.config, found.generation_config = plain_config(checkpoint), model.generation_config
    return found


@contextmanager
def restored_settings(model: Any) -> Iterator[None]:
    """Exporters choose how experts are computed, and stop gradients: both are put back."""
    experts = model.get_experts_implementation() if _has_experts(model) else None
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
        if experts is not None:
            model.set_experts_implementation(experts)


def _has_experts(model: Any) -> bool:
    return bool(getattr(model, "_can_set_experts_implementation", lambda: False)())


@contextmanager
def silence() -> Iterator[None]:
    """Exporters tell of their steps, and of versions that they have not been tried with; the check is what counts."""
    before, level = logging.root.manager.disable, transformers_logging.get_verbosity()
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        transformers_logging.set_verbosity(level)
