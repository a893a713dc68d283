"""Decoding step by step with a KV cache, compared with one pass: of a decoder, and of one behind an encoder."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.caches import cache_keyword, given_cache, returned_cache
from remodeler.model.streaming import streamed_weights

STEP_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far apart cached decoding and one pass may be, as a share of the largest logit: the tensors' shapes differ."""


def compare_cached(anatomy: Anatomy, inputs: dict[str, Tensor], wanted: Tensor) -> float | None:
    """Decode token by token with a cache; the largest difference from one pass. A streamed model is read twice only."""
    if anatomy.family.task == "masked":
        return None
    model: Any = anatomy.model
    width = -(-inputs["input_ids"].shape[1] // 2) if streamed_weights(model) else 1
    steps = _decode_alone if anatomy.family.task == "causal" else _decode_behind_encoder
    found = torch.cat(list(steps(model, inputs, width)), 1)
    difference = ((found - wanted).float().abs().max() / wanted.float().abs().max()).item()
    if not difference <= STEP_TOLERANCE[model.dtype]:
        raise InputError(
            f"decoding with a KV cache goes another way than one pass (by {difference:.3g} of the largest logit): "
            "choose another `form`"
        )
    return difference


def _decode_alone(model: Any, inputs: dict[str, Tensor], width: int) -> Iterator[Tensor]:
    """Logits of a decoder, so many tokens at a time."""
    first, *others = inputs["input_ids"].split(width, dim=1)
    outputs = model(input_ids=first, use_cache=True)  # which makes the cache that the model wants
    yield outputs.logits
    read = first.shape[1]
    for ids in others:
        outputs = model(input_ids=ids, **given_cache(model, returned_cache(outputs), read, ids))
        yield outputs.logits
        read += ids.shape[1]


def _decode_behind_encoder(model: Any, inputs: dict[str, Tensor], width: int) -> Iterator[Tensor]:
    """The same of a decoder that reads what an encoder made of its input, once."""
    first, *others = inputs["decoder_input_ids"].split(width, dim=1)
    outputs = model(input_ids=inputs["input_ids"], decoder_input_ids=first, use_cache=True)
    yield outputs.logits
    memory = (outputs.encoder_last_hidden_state,)
    for ids in others:
        cache = {cache_keyword(model): returned_cache(outputs), "use_cache": True}
        outputs = model(encoder_outputs=memory, decoder_input_ids=ids, **cache)
        yield outputs.logits
