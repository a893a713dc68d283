"""What a model calls its cache: ``cache`` since transformers 5.24, ``past_key_values`` before and in remote code."""

import inspect
from functools import cache as remembered
from typing import Any

import torch
from torch import Tensor

from remodeler.errors import InputError

NAME, OLD_NAME = "cache", "past_key_values"


def cache_keyword(model: Any) -> str:
    """The argument of a model's forward that takes the cache."""
    return NAME if NAME in _arguments(model.__class__) else OLD_NAME


@remembered
def _arguments(model_class: type) -> frozenset[str]:
    """Names of the arguments of a class's forward; looked up once, since decoding asks for every token."""
    return frozenset(inspect.signature(model_class.forward).parameters)  # type: ignore[attr-defined]


def given_cache(model: Any, cache: Any, read: int, ids: Tensor) -> dict[str, Any]:
    """Keyword arguments that hand a cache to a model, which fills it further.

    Args:
        model: the model.
        cache: of all that was read.
        read: how many tokens that is.
        ids: [batch, new], read next. Their positions are told, as some models (Bamba) count from 0 otherwise.
    """
    given = {cache_keyword(model): cache, "use_cache": True}
    if "position_ids" in _arguments(model.__class__):
        given["position_ids"] = torch.arange(read, read + ids.shape[1], device=ids.device).expand(ids.shape)
    return given


def returned_cache(outputs: Any) -> Any:
    """The cache in what a model returned.

    Raises:
        InputError: when there is none, as in models that keep their state in their modules.
    """
    found = next((outputs[name] for name in (NAME, OLD_NAME) if name in outputs), None)
    if found is None:
        raise InputError("the model returns no cache when it is asked for one: choose one that decodes with a cache")
    return found
