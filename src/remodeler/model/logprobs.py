"""Log-probability of every token; perplexity; bits per byte.

Logits are made in chunks of positions, so that those of a whole batch never exist. The model is run in two parts,
both with its own code: the *trunk* (everything up to the last hidden states) and the *head* (output projection,
soft-capping, scaling), which is the model itself with its trunk swapped for given states. Log-sum-exp is in float32,
sums are in float64. BlockPruner's code (``utils.evaluate_ppl``) takes full logits in the model's dtype instead; where
a window holds padding-token targets it leaves them out, we score every real token.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, StandIn, swapped
from remodeler.model.layerwise import group_size, replaying, through
from remodeler.model.minibatches import Batch, batch_size, batches, device_of
from remodeler.model.streaming import streamed_weights
from remodeler.packed import text_of
from remodeler.runs.progress import Progress, silent

CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**27}
"""Logits that exist at once: small enough for a CPU's cache, large enough to fill a GPU."""
CHUNK_POSITIONS = 64
"""At least so many positions at once, however large the vocabulary: fewer leave a matrix product idle."""


@dataclass
class Given(BaseModelOutputWithPastAndCrossAttentions):
    """States that were given, in the shape that any family's head asks for."""

    router_logits: tuple[Tensor, ...] | None = None
    pooler_output: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        """Nothing else was given, as states of a cache, which heads only hand on."""
        if name.startswith("_"):
            raise AttributeError(name)


@dataclass(frozen=True)
class TopK:
    """Sparse next-token distributions: the likeliest tokens of every position, and all others as one."""

    ids: Tensor
    """[tokens, k] int64, likeliest first."""
    logprobs: Tensor
    """[tokens, k] float32"""
    rest: Tensor
    """[tokens] float32: log of the probability of all other tokens together; -inf where there are none."""

    def __getitem__(self, part: slice | Tensor) -> "TopK":
        return TopK(self.ids[part], self.logprobs[part], self.rest[part])

    def to(self, device: torch.device | str) -> "TopK":
        """On a device."""
        return TopK(self.ids.to(device), self.logprobs.to(device), self.rest.to(device))


class Returns(StandIn):
    """Stands where the trunk was and returns given states."""

    def __init__(self, states: Tensor, like: nn.Module) -> None:
        super().__init__(like)
        self.states = states

    def forward(self, *args: object, **kwargs: object) -> "Given":
        return Given(last_hidden_state=self.states)


def trunk_states(anatomy: Anatomy, inputs: dict[str, Tensor]) -> Tensor:
    """Hidden states that the head reads: [batch, length, width], on the device of the inputs."""
    return _trunk_states(anatomy, inputs).to(inputs["input_ids"].device)


def _trunk_states(anatomy: Anatomy, inputs: dict[str, Tensor]) -> Tensor:
    model, family = anatomy.model, anatomy.family
    trunk = model.get_submodule(family.trunk)
    if family.task != "seq2seq":
        states: Tensor = trunk(**inputs, use_cache=False)[0]
        return states
    encoder = model.get_submodule(family.stacks[0].layers.rpartition(".")[0])
    memory = encoder(inputs["input_ids"], attention_mask=inputs.get("attention_mask"))[0]
    given = {"encoder_hidden_states": memory, "encoder_attention_mask": inputs.get("attention_mask")}
    states = trunk(input_ids=inputs["decoder_input_ids"], use_cache=False, **given)[0]
    return states


def head_logits(anatomy: Anatomy, states: Tensor) -> Tensor:
    """Logits of some states: [batch, length, width] to [batch, length, vocabulary]."""
    model, family = anatomy.model, anatomy.family
    ids = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
    inputs: dict[str, Any] = {"input_ids": ids}
    if family.task == "seq2seq":
        inputs = {"encoder_outputs": (states,), "decoder_input_ids": ids}
    with swapped(model, family.trunk, Returns(states, model.get_submodule(family.trunk))):
        logits: Tensor = model(**inputs, use_cache=False).logits if family.task != "masked" else model(**inputs).logits
    return logits


def vocabulary(model: Any) -> int:
    """Number of logits a position."""
    return int(text_of(model.config).vocab_size)


def spread_tokens(rows: int, length: int) -> list[int]:
    """Tokens for a check, from all over a vocabulary.

    The first ones are often reserved and were never trained: what a model says of them may hang on every rounding.
    """
    step = max(1, rows // (length + 1))
    return [step * number % rows for number in range(1, length + 1)]


def scored_states(anatomy: Anatomy, batch: Batch) -> Tensor:
    """Hidden states of the scored positions: [scored, width]."""
    return trunk_states(anatomy, batch.inputs).flatten(0, 1).index_select(0, batch.places)


def chunk_positions(anatomy: Anatomy, device: torch.device) -> int:
    """How many positions may have their logits at once."""
    elements = CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["cuda"])
    return max(CHUNK_POSITIONS, elements // vocabulary(anatomy.model))


def scored_logits(anatomy: Anatomy, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of the scored positions, in order, and the tokens that came: a chunk at a time, float32."""
    states = scored_states(anatomy, batch)
    size = chunk_positions(anatomy, states.device)
    for part, targets in zip(states.split(size), batch.targets.split(size), strict=True):
        yield head_logits(anatomy, part[None])[0].float(), targets


def target_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities of the tokens that came: [tokens]."""
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)


def token_logprobs(anatomy: Anatomy, batch: Batch) -> Iterator[Tensor]:
    """Log-probability of the scored tokens, in order, a chunk [tokens] at a time, float32."""
    return (target_logprobs(logits, targets) for logits, targets in scored_logits(anatomy, batch))


def sparse(logits: Tensor, k: int) -> TopK:
    """The k likeliest tokens of logits [tokens, vocabulary], and the mass outside them: summed, not 1 minus theirs."""
    values, ids = logits.float().topk(min(k, logits.shape[1]))
    rest = logits.float().scatter(1, ids, -math.inf).logsumexp(1)
    whole = torch.logaddexp(values.logsumexp(1), rest)
    return TopK(ids, values - whole[:, None], rest - whole)


def concatenate(parts: Sequence[TopK]) -> TopK:
    """Predictions one behind the other."""
    ids, logprobs, rest = zip(*((each.ids, each.logprobs, each.rest) for each in parts), strict=True)
    return TopK(torch.cat(ids), torch.cat(logprobs), torch.cat(rest))


@torch.no_grad()
def topk_logprobs(anatomy: Anatomy, batch: Batch, k: int, temperature: float = 1.0) -> TopK:
    """What a model predicts at the scored positions of a batch, its logits divided by ``temperature``.

    Logits exist a chunk at a time; what is kept is k ids and k + 1 numbers a position.
    """
    return concatenate([sparse(logits / temperature, k) for logits, _ in scored_logits(anatomy, batch)])


@torch.no_grad()
def scored_topk(anatomy: Anatomy, batch: Batch, k: int) -> tuple[TopK, Tensor]:
    """The same, and the log-probabilities of the tokens that came: [tokens] float32."""
    found = [(sparse(logits, k), target_logprobs(logits, targets)) for logits, targets in scored_logits(anatomy, batch)]
    return concatenate([top for top, _ in found]), torch.cat([gold for _, gold in found])


def sum_dtype(device: torch.device) -> torch.dtype:
    """What sums are taken in: float64, which Apple's devices don't have."""
    return torch.float32 if device.type == "mps" else torch.float64


def summed_nll(anatomy: Anatomy, batch: Batch, cells: Tensor, count: int) -> Tensor:
    """Negative log-probabilities summed by cell: [count] float64 on the device.

    Args:
        anatomy: the traced model.
        batch: some windows.
        cells: [scored] int64, the cell of each scored position, below ``count``.
        count: number of cells.
    """
    dtype = sum_dtype(batch.targets.device)
    totals = torch.zeros(count, dtype=dtype, device=batch.targets.device)
    start = 0
    for logprobs in token_logprobs(anatomy, batch):
        totals.index_add_(0, cells[start : start + len(logprobs)], -logprobs.to(dtype))
        start += len(logprobs)
    return totals


def window_nll(anatomy: Anatomy, batch: Batch) -> Tensor:
    """Sum of the negative log-probabilities of every window of a batch: [windows] float64 on the device."""
    return summed_nll(anatomy, batch, batch.rows, len(batch))


def batch_nll(anatomy: Anatomy, batch: Batch) -> Tensor:
    """Sum of the negative log-probabilities of a batch, a float64 scalar on the device."""
    return window_nll(anatomy, batch).sum()


@torch.no_grad()
def mean_nll(anatomy: Anatomy, windows: Windows, size: int | None = None, progress: Progress = silent) -> float:
    """Mean negative log-likelihood a scored token, in nats; ``progress`` is told the share done.

    Raises:
        InputError: when it is not finite.
    """
    device = device_of(anatomy.model)
    size = size or batch_size(anatomy, windows)
    parts: list[Tensor] = []
    for batch, known in _with_known(anatomy, batches(windows, size, device), size * windows.ids.shape[1]):
        with replaying(anatomy, known):
            parts.append(batch_nll(anatomy, batch))
        progress(min(1.0, len(parts) * size / len(windows)), "")
    return finite(torch.stack(parts).sum().item() / windows.tokens)


def _with_known(anatomy: Anatomy, every: Iterator[Batch], tokens: int) -> Iterator[tuple[Batch, list[Any]]]:
    """Batches, each with what is known of its layers: nothing, or all where a streamed model took many on together."""
    if streamed_weights(anatomy.model) is None:
        yield from ((batch, []) for batch in every)
        return
    while group := list(islice(every, group_size(anatomy, tokens))):
        yield from zip(group, through(anatomy, [partial(trunk_states, anatomy, b.inputs) for b in group]), strict=True)


def finite(value: float) -> float:
    """The value, if a search can go on with it."""
    if not math.isfinite(value):
        raise InputError(
            f"the loss of the model is {value}: its weights are damaged or too large for this `dtype`, "
            "try `dtype='float32'`"
        )
    return value


def perplexity(nll: float) -> float:
    """exp of the mean negative log-likelihood; infinite where a float can't hold it."""
    return math.exp(nll) if nll < 700 else math.inf


def bits_per_byte(nll: float, windows: Windows) -> float:
    """Mean cost of a byte of the scored text in bits: comparable between tokenizers, which perplexity is not.

    Raises:
        ValueError: for windows that do not know their bytes, as slices.
    """
    if not windows.bytes:
        raise ValueError("these windows don't know how many bytes of text they hold")
    return nll * windows.tokens / (math.log(2) * windows.bytes)
