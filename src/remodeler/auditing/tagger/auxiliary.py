"""Auxiliary information: which features of a piece the tag is read from.

YNU-HPCC (SemEval-2021 task 5, 1.112) joins what an encoder says of a piece with a summary of the whole text, and with
what its earlier layers say. Layer attention: one linear map to a number, with bias, scores every layer of every piece,
embeddings included; the softmax over layers weighs them.

Deviations: concatenating the last layers is not XLNet's alone, and leaves the summary out; the dropout before the
classifier is the same for all encoders.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from remodeler.errors import InputError

States = Sequence[Tensor]
"""[batch, time, hidden] each: the embeddings, then what every layer says."""


@dataclass(frozen=True)
class Inputs:
    """What features are made of."""

    states: States
    """All of them where a row needs layers, else the last alone."""
    summary: Tensor | None
    """[batch, hidden]: of the whole text."""
    scorer: nn.Module | None
    """Hidden to 1: the score of a layer."""
    last: int
    """How many of the last layers are concatenated."""


@dataclass(frozen=True)
class Auxiliary:
    """A way to make features: the function, how wide they are in hidden sizes, and what it needs."""

    features: Callable[[Inputs], Tensor]
    width: Callable[[int], int] = lambda last: 1
    summary: bool = False
    layers: bool = False
    attention: bool = False


def plain(given: Inputs) -> Tensor:
    """What the last layer says."""
    return given.states[-1]


def cls_add(given: Inputs) -> Tensor:
    """The last layer and the summary, added."""
    return given.states[-1] + _spread(given)


def cls_concat(given: Inputs) -> Tensor:
    """The last layer and the summary, side by side."""
    return torch.cat([given.states[-1], _spread(given).expand_as(given.states[-1])], dim=-1)


def layer_attention(given: Inputs) -> Tensor:
    """A mean of all layers, with weights of each piece's own."""
    stacked = torch.stack(list(given.states), dim=2)  # [batch, time, layers + 1, hidden]
    weights = layer_weights(stacked, given.scorer)
    return (weights[:, :, None, :] @ stacked)[:, :, 0]


def layer_attention_cls(given: Inputs) -> Tensor:
    """That mean and the summary, added."""
    return layer_attention(given) + _spread(given)


def last_k(given: Inputs) -> Tensor:
    """The last layers, side by side."""
    if given.last > len(given.states):
        raise InputError(f"--last-layers {given.last} was given, the encoder has {len(given.states)}: lower it")
    return torch.cat(list(given.states[-given.last :]), dim=-1)


def layer_weights(stacked: Tensor, scorer: nn.Module | None) -> Tensor:
    """[batch, time, layers + 1]: how much each layer counts for a piece; they add up to 1."""
    assert scorer is not None, "layer attention has a scorer"
    scored: Tensor = scorer(stacked)
    return scored[..., 0].softmax(-1)


def _spread(given: Inputs) -> Tensor:
    """[batch, 1, hidden]: the summary, for every piece."""
    assert given.summary is not None, "its row says that it needs a summary"
    return given.summary[:, None]


AUXILIARIES: dict[str, Auxiliary] = {
    "none": Auxiliary(plain),
    "cls-add": Auxiliary(cls_add, summary=True),
    "cls-concat": Auxiliary(cls_concat, lambda last: 2, summary=True),
    "layer-attention": Auxiliary(layer_attention, layers=True, attention=True),
    "layer-attention-cls": Auxiliary(layer_attention_cls, summary=True, layers=True, attention=True),
    "last-k": Auxiliary(last_k, lambda last: last, layers=True),
}
