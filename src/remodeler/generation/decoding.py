"""Continue rows of token ids with a decoder: in batches, with the KV cache, a token for every row at each step.

Nothing is padded. A batch reads its prompts together up to the end of the shortest; what the longer ones have left is
put in, token by token, where the model's choice would go (as Meta's first code for Llama did). So every row is at the
same position: no mask, no position ids, and every kind of cache is right. Batches should be of similar lengths.

A token is drawn by a race: every token of the vocabulary waits for an exponential time, the shorter the likelier it
is, and the first one wins (the Gumbel-max trick). The times come from a key that the caller has for each row and step,
by SplitMix64 (Steele et al. 2014) over the vocabulary. So a row's tokens do not depend on the batch it is in, but for
the rounding of matrix products of other shapes, which matters only where two tokens arrive at once; and two models with
the same keys choose the same token about as often as any way of drawing allows. The device is asked for nothing in
between but whether rows have ended, once in CHECK steps; when half of them have, the others go on alone.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.model.caches import given_cache, returned_cache
from remodeler.model.logprobs import target_logprobs
from remodeler.model.minibatches import device_of

CHECK = 16
"""Steps between two looks at which rows have ended: each makes the device wait."""
GOLDEN, FIRST, SECOND = (each - 2**64 for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""SplitMix64's step and factors, as signed numbers."""


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the smallest set of likeliest tokens that has so much of the probability."""


@dataclass(frozen=True)
class Continued:
    """What came after a row."""

    ids: tuple[int, ...]
    """Up to the first token that ends a text, which is among them."""
    ended: bool
    logprob: float
    """Of all of ``ids`` under the model's own distribution, whatever the temperature."""


@dataclass(eq=False)
class Batch:
    """Rows that are still being continued; all tensors on the device."""

    numbers: Tensor  # [rows] int64: which row of the caller's
    ids: Tensor  # [rows, room] int64: prompt, then what came; 0 where nothing came
    given: Tensor  # [rows] int64: length of the prompt
    keys: Tensor  # [rows, new] int64
    done: Tensor  # [rows] bool
    logprobs: Tensor  # [rows] float32
    wrong: Tensor  # [rows] bool: logits that are no numbers

    def part(self, chosen: Tensor) -> "Batch":
        """Some of the rows."""
        return Batch(*(getattr(self, each.name)[chosen] for each in fields(self)))


@torch.no_grad()  # not inference mode: a model may be trained again with what it keeps of its positions
def continue_prompts(
    model: Any, prompts: Sequence[Sequence[int]], choice: Choice, keys: np.ndarray, ends: Sequence[int]
) -> list[Continued]:
    """Continue every prompt up to an end or by ``keys.shape[1]`` tokens.

    Args:
        model: a transformers decoder.
        prompts: token ids, at least one a row.
        choice: how tokens are chosen.
        keys: [rows, new] int64, each as random as a seed should be: row and step decide what is drawn.
        ends: ids that end a text.

    Raises:
        InputError: when the model's logits are no numbers.
    """
    batch = _batch(prompts, keys, device_of(model))
    stops = torch.tensor(sorted(ends), device=batch.ids.device)
    kept = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    shortest, room = min(map(len, prompts)), batch.ids.shape[1]
    finished: list[Batch] = []
    outputs = model(batch.ids[:, :shortest], use_cache=True, **kept)
    for place in range(shortest, room):
        _chosen(batch, place, outputs.logits[:, -1].float(), choice, stops)
        if (place - shortest) % CHECK == CHECK - 1:
            batch, outputs = _compact(batch, outputs, finished)
            if not len(batch.ids):
                break
        if place + 1 < room:
            token = batch.ids[:, place : place + 1]
            outputs = model(token, **given_cache(model, returned_cache(outputs), place, token), **kept)
    return _rows([*finished, batch], keys.shape[1], set(ends))


def _batch(prompts: Sequence[Sequence[int]], keys: np.ndarray, device: torch.device) -> Batch:
    rows, new = keys.shape
    ids = torch.zeros(rows, max(map(len, prompts)) + new, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    given = torch.tensor([len(prompt) for prompt in prompts])
    flags = torch.zeros(2, rows, dtype=torch.bool)
    parts = (torch.arange(rows), ids, given, torch.from_numpy(keys), flags[0], torch.zeros(rows), flags[1])
    return Batch(*(part.to(device) for part in parts))


def _chosen(batch: Batch, place: int, logits: Tensor, choice: Choice, stops: Tensor) -> None:
    """Put the next token at a place: what the prompt has there, else what the model chooses."""
    step = place - batch.given  # [rows]: below 0 inside a prompt
    new = batch.keys.shape[1]
    token = pick(logits, batch.keys.gather(1, step.clamp(0, new - 1)[:, None])[:, 0], choice)
    free = (step >= 0) & ~batch.done
    batch.ids[:, place] = torch.where(free, token, batch.ids[:, place])
    batch.logprobs += torch.where(free, target_logprobs(logits, token), 0)
    batch.wrong |= free & ~logits.amax(1).isfinite()
    batch.done |= free & (torch.isin(token, stops) | (step + 1 >= new))


def _compact(batch: Batch, outputs: Any, finished: list[Batch]) -> tuple[Batch, Any]:
    """Put aside the rows that have ended, where they are at least half."""
    going = (~batch.done).nonzero()[:, 0]
    if 2 * len(going) > len(batch.done):
        return batch, outputs
    finished.append(batch.part(batch.done))
    if len(going):
        returned_cache(outputs).batch_select_indices(going)
    return batch.part(going), outputs


def _rows(batches: Sequence[Batch], new: int, ends: set[int]) -> list[Continued]:
    """What came, in the caller's order."""
    if any(bool(batch.wrong.any()) for batch in batches):
        raise InputError("the model's logits are no numbers: its weights are damaged, or try `dtype='float32'`")
    found: dict[int, Continued] = {}
    for batch in batches:
        parts = (batch.numbers, batch.ids, batch.given, batch.logprobs)
        for number, ids, given, logprob in zip(*(part.tolist() for part in parts), strict=True):
            own = ids[given : given + new]
            length = next((place + 1 for place, token in enumerate(own) if token in ends), new)
            found[number] = Continued(tuple(own[:length]), own[length - 1] in ends, logprob)
    return [found[number] for number in range(len(found))]


# One token ------------------------------------------------------------------------------------------------------------


def pick(logits: Tensor, keys: Tensor, choice: Choice) -> Tensor:
    """The next token of every row: [rows, vocabulary] float32 and [rows] int64 to [rows] int64."""
    if choice.temperature == 0:
        return logits.argmax(1)
    weights = (logits / choice.temperature).softmax(1)
    weights = weights if choice.top_p >= 1 else nucleus(weights, choice.top_p)
    return (weights / waits(keys, weights.shape[1])).argmax(1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens that together have at least ``top_p``; 0 for all others (Holtzman et al. 2020)."""
    ordered, places = probabilities.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    return torch.zeros_like(probabilities).scatter(1, places, ordered.masked_fill(before >= top_p, 0))


def waits(keys: Tensor, count: int) -> Tensor:
    """Exponential waiting times of mean 1: [rows] int64 to [rows, count] float32, above 0 and exact when short."""
    numbers = split_mix64(keys[:, None] + GOLDEN * torch.arange(1, count + 1, device=keys.device))
    shares = (_right(numbers, 11) | 1).float() * 2.0**-53  # from (0, 1]
    return -torch.log1p(-shares)


def split_mix64(numbers: Tensor) -> Tensor:
    """SplitMix64's output for its states; int64, which wraps around."""
    numbers = (numbers ^ _right(numbers, 30)) * FIRST
    numbers = (numbers ^ _right(numbers, 27)) * SECOND
    return numbers ^ _right(numbers, 31)


def _right(numbers: Tensor, bits: int) -> Tensor:
    """Shifted to the right as unsigned numbers are."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
