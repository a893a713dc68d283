"""Continue rows of token ids with a decoder: in batches, with the KV cache, a token for every row at each step.

Nothing is padded. A batch reads its prompts together up to the end of the shortest; what the longer ones have left is
put in, token by token, where the model's choice would go (as Meta's first code for Llama did). So every row is at the
same position: no mask, no position ids, and every kind of cache is right. Batches should be of similar lengths.

A token is drawn with one number from [0, 1): the first token, in the order of the vocabulary, up to which that share of
the probability lies. The caller brings these numbers, so that a row's tokens do not depend on the batch it is in,
but for the rounding of matrix products of other shapes. The device is asked for nothing in between but whether
rows have ended, once in CHECK steps; when half of them have, the others go on alone.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.logprobs import came, sum_dtype
from remodeler.minibatches import device_of

CHECK = 16
"""Steps between two looks at which rows have ended: each makes the device wait."""
BELOW_ONE = 1 - 2**-23
"""A share that is below 1 after any rounding in float32."""


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
    uniforms: Tensor  # [rows, new] float32
    done: Tensor  # [rows] bool
    logprobs: Tensor  # [rows] float32
    wrong: Tensor  # [rows] bool: logits that are no numbers

    def part(self, chosen: Tensor) -> "Batch":
        """Some of the rows."""
        return Batch(*(getattr(self, each.name)[chosen] for each in fields(self)))


@torch.inference_mode()
def continued(
    model: Any, prompts: Sequence[Sequence[int]], choice: Choice, uniforms: np.ndarray, ends: Sequence[int]
) -> list[Continued]:
    """Continue every prompt up to an end or by ``uniforms.shape[1]`` tokens.

    Args:
        model: a transformers decoder.
        prompts: token ids, at least one a row.
        choice: how tokens are chosen.
        uniforms: [rows, new] float32 from [0, 1): row and step decide what is drawn.
        ends: ids that end a text.

    Raises:
        InputError: when the model's logits are no numbers.
    """
    batch = _batch(prompts, uniforms, device_of(model))
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
            outputs = model(token, past_key_values=outputs.past_key_values, use_cache=True, **kept)
    return _rows([*finished, batch], uniforms.shape[1], set(ends))


def _batch(prompts: Sequence[Sequence[int]], uniforms: np.ndarray, device: torch.device) -> Batch:
    rows, new = uniforms.shape
    ids = torch.zeros(rows, max(map(len, prompts)) + new, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    given = torch.tensor([len(prompt) for prompt in prompts])
    flags = torch.zeros(2, rows, dtype=torch.bool)
    numbers, drawn = torch.arange(rows), torch.from_numpy(uniforms)
    parts = (numbers, ids, given, drawn, flags[0], torch.zeros(rows), flags[1])
    return Batch(*(part.to(device) for part in parts))


def _chosen(batch: Batch, place: int, logits: Tensor, choice: Choice, stops: Tensor) -> None:
    """Put the next token at a place: what the prompt has there, else what the model chooses."""
    step = place - batch.given  # [rows]: below 0 inside a prompt
    uniforms = batch.uniforms.gather(1, step.clamp(0, batch.uniforms.shape[1] - 1)[:, None])[:, 0]
    token = pick(logits, uniforms, choice)
    free = (step >= 0) & ~batch.done
    batch.ids[:, place] = torch.where(free, token, batch.ids[:, place])
    batch.logprobs += torch.where(free, came(logits, token), 0)
    batch.wrong |= free & ~logits.amax(1).isfinite()
    batch.done |= free & (torch.isin(token, stops) | (step + 1 >= batch.uniforms.shape[1]))


def _compact(batch: Batch, outputs: Any, finished: list[Batch]) -> tuple[Batch, Any]:
    """Put aside the rows that have ended, where they are at least half."""
    going = (~batch.done).nonzero()[:, 0]
    if 2 * len(going) > len(batch.done):
        return batch, outputs
    finished.append(batch.part(batch.done))
    if len(going):
        outputs.past_key_values.batch_select_indices(going)
    return batch.part(going), outputs


def _rows(batches: Sequence[Batch], new: int, ends: set[int]) -> list[Continued]:
    """What came, in the caller's order."""
    if any(bool(batch.wrong.any()) for batch in batches):
        raise InputError("the model's logits are no numbers: its weights are damaged, or try --dtype float32")
    found: dict[int, Continued] = {}
    for batch in batches:
        parts = (batch.numbers, batch.ids, batch.given, batch.logprobs)
        for number, ids, given, logprob in zip(*(part.tolist() for part in parts), strict=True):
            own = ids[given : given + new]
            length = next((place + 1 for place, token in enumerate(own) if token in ends), new)
            found[number] = Continued(tuple(own[:length]), own[length - 1] in ends, logprob)
    return [found[number] for number in range(len(found))]


# One token ------------------------------------------------------------------------------------------------------------


def pick(logits: Tensor, uniforms: Tensor, choice: Choice) -> Tensor:
    """The next token of every row: [rows, vocabulary] float32 and [rows] from [0, 1) to [rows] int64."""
    if choice.temperature == 0:
        return logits.argmax(1)
    probabilities = (logits / choice.temperature).softmax(1)
    return drawn(probabilities if choice.top_p >= 1 else nucleus(probabilities, choice.top_p), uniforms)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens that together have at least ``top_p``; 0 for all others (Holtzman et al. 2020)."""
    ordered, places = probabilities.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    return torch.zeros_like(probabilities).scatter(1, places, ordered.masked_fill(before >= top_p, 0))


def drawn(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The token up to which a share ``uniforms`` of all weight lies: [rows, vocabulary] and [rows] to [rows]."""
    sums = weights.cumsum(1, dtype=sum_dtype(weights.device))
    aim = uniforms.clamp(max=BELOW_ONE)[:, None].to(sums.dtype) * sums[:, -1:]
    return torch.searchsorted(sums, aim, right=True)[:, 0].clamp(max=weights.shape[1] - 1)
