"""Auxiliary information: features of a piece from which its tag is predicted.

YNU-HPCC (SemEval-2021 task 5, 1.112) combines the last hidden state of a piece with a summary of the whole text, and
with earlier layers. Layer attention: a linear map to a scalar, with bias, scores every layer of every piece, embeddings
included; the softmax over layers weighs them.

Deviations: concatenating the last layers works for every encoder, not only XLNet, and leaves the summary out; the
dropout before the classifier is the same for all encoders.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from remodeler.errors import InputError, option

States = Sequence[Tensor]
"""[batch, time, hidden] each: the embeddings, then the output of every layer."""


@dataclass(frozen=True)
class FeatureInputs:
    """Inputs of a feature function."""

    states: States
    """All hidden states where a row needs layers, else the last one."""
    summary: Tensor | None
    """[batch, hidden] summary of the whole text."""
    scorer: nn.Module | None
    """Linear layer from hidden to 1: the score of a layer."""
    last: int
    """Number of last layers to concatenate."""


@dataclass(frozen=True)
class Auxiliary:
    """A kind of features: the function, its width in hidden sizes, and what it needs."""

    features: Callable[[FeatureInputs], Tensor]
    width: Callable[[int], int] = lambda last: 1
    summary: bool = False
    layers: bool = False
    attention: bool = False


def plain(inputs: FeatureInputs) -> Tensor:
    """Last layer."""
    return inputs.states[-1]


def cls_add(inputs: FeatureInputs) -> Tensor:
    """Sum of the last layer and the summary."""
    return inputs.states[-1] + _broadcast_summary(inputs)


def cls_concat(inputs: FeatureInputs) -> Tensor:
    """Concatenation of the last layer and the summary."""
    return torch.cat([inputs.states[-1], _broadcast_summary(inputs).expand_as(inputs.states[-1])], dim=-1)


def layer_attention(inputs: FeatureInputs) -> Tensor:
    """Weighted mean of all layers, with weights per piece."""
    stacked = torch.stack(list(inputs.states), dim=2)  # [batch, time, layers + 1, hidden]
    weights = layer_weights(stacked, inputs.scorer)
    return (weights[:, :, None, :] @ stacked)[:, :, 0]


def layer_attention_cls(inputs: FeatureInputs) -> Tensor:
    """Sum of layer attention and the summary."""
    return layer_attention(inputs) + _broadcast_summary(inputs)


def last_k(inputs: FeatureInputs) -> Tensor:
    """Concatenation of the last layers."""
    if inputs.last > len(inputs.states):
        layers = f"{len(inputs.states)}, the layers of the encoder"
        raise InputError(f"{option('last_layers')} must be <= {layers} (got {inputs.last})")
    return torch.cat(list(inputs.states[-inputs.last :]), dim=-1)


def layer_weights(stacked: Tensor, scorer: nn.Module | None) -> Tensor:
    """[batch, time, layers + 1] weights of the layers for each piece; they sum to 1."""
    assert scorer is not None, "layer attention has a scorer"
    scored: Tensor = scorer(stacked)
    return scored[..., 0].softmax(-1)


def _broadcast_summary(inputs: FeatureInputs) -> Tensor:
    """[batch, 1, hidden] summary, to broadcast over pieces."""
    assert inputs.summary is not None, "the row declares that it needs a summary"
    return inputs.summary[:, None]


AUXILIARIES: dict[str, Auxiliary] = {
    "none": Auxiliary(plain),
    "cls-add": Auxiliary(cls_add, summary=True),
    "cls-concat": Auxiliary(cls_concat, lambda last: 2, summary=True),
    "layer-attention": Auxiliary(layer_attention, layers=True, attention=True),
    "layer-attention-cls": Auxiliary(layer_attention_cls, summary=True, layers=True, attention=True),
    "last-k": Auxiliary(last_k, lambda last: last, layers=True),
}
