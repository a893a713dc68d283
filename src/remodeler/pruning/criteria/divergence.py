"""How far the final logits are from the intact model's (FinerCut, arXiv 2405.18218; code llm_dissect).

Of the intact model only the last hidden states of one mini-batch are kept; its logits are made again, a chunk of
positions at a time, beside those of the model without a candidate. The candidates of a step share one pass (sweep).

As there, all positions of a window count, scored or not. Deviations: padding does not count; in a masked or an
encoder-decoder model (the paper has none) only the scored positions do. ``js`` is the textbook Jensen-Shannon
divergence; ``js-released`` is what the released code computes, whose arguments of ``kl_div`` are the other way round:
half of KL(M || P) + KL(M || Q). That code divides by tokens and vocabulary, we by tokens: the same order, in nats. Its
cosine is clamped to [0, 1], so that no angle passes pi/2, and so is ours; we take the angle from the unit vectors'
difference and sum, which float32 does not round to nothing when they are near.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import chunk_positions, head_logits, sum_dtype, trunk_states
from remodeler.model.minibatches import Batch
from remodeler.pruning.criteria.sweep import Measure, window_scores
from remodeler.runs.progress import Progress, silent
from remodeler.runs.units import Block, Unit

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of logits [positions, vocabulary] of the intact and the pruned model, float32: a number a position, [positions]."""


def js(intact: Tensor, pruned: Tensor) -> Tensor:
    """Jensen-Shannon divergence, half of KL(P || M) + KL(Q || M), M the mean of both; in nats, log 2 at most."""
    p, q = intact.log_softmax(1), pruned.log_softmax(1)
    m = torch.logaddexp(p, q) - math.log(2)
    return 0.5 * (p.exp() * (p - m) + q.exp() * (q - m)).sum(1, dtype=sum_dtype(p.device))


def js_released(intact: Tensor, pruned: Tensor) -> Tensor:
    """Half of KL(M || P) + KL(M || Q): the released code's form."""
    p, q = intact.log_softmax(1), pruned.log_softmax(1)
    m = torch.logaddexp(p, q) - math.log(2)
    return 0.5 * (m.exp() * ((m - p) + (m - q))).sum(1, dtype=sum_dtype(p.device))


def kl(intact: Tensor, pruned: Tensor) -> Tensor:
    """KL(P || Q), P of the intact model, in nats."""
    p, q = intact.log_softmax(1), pruned.log_softmax(1)
    return (p.exp() * (p - q)).sum(1, dtype=sum_dtype(p.device))


def angle(intact: Tensor, pruned: Tensor) -> Tensor:
    """Angle between the logits, in radians, pi/2 at most."""
    u, v = normalize(intact, dim=1), normalize(pruned, dim=1)
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1)).clamp(max=math.pi / 4).to(sum_dtype(u.device))


def squares(intact: Tensor, pruned: Tensor) -> Tensor:
    """Squared Euclidean distance of the logits."""
    return (intact - pruned).square().sum(1, dtype=sum_dtype(intact.device))


def divergence(
    distance: Distance,
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
    **_: Any,
) -> list[float]:
    """Mean distance a position between the logits of the intact model and of the one without the candidate."""
    prepare = partial(measure, distance)
    scores = window_scores(anatomy, windows, removed, candidates, size, progress, prepare)
    return [total / positions(anatomy, windows) for total in scores.sum(0).tolist()]


def norm(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
    **_: Any,
) -> list[float]:
    """Frobenius norm of the change of a window's logits, mean over the windows."""
    scores = window_scores(anatomy, windows, removed, candidates, size, progress, partial(measure, squares))
    means: list[float] = scores.sqrt().mean(0).tolist()
    return means


def measure(distance: Distance, anatomy: Anatomy, batch: Batch) -> Measure:
    """Keep the intact model's states of a batch; the measure sums the distance over the positions of each window."""
    intact = _states(anatomy, batch)

    def compare(anatomy: Anatomy, batch: Batch) -> Tensor:
        return _sum_distances(distance, anatomy, batch, intact, _states(anatomy, batch))

    return compare


def positions(anatomy: Anatomy, windows: Windows) -> int:
    """How many positions are compared."""
    if anatomy.family.task != "causal":
        return windows.tokens
    return windows.ids.numel() if windows.attention is None else int(windows.attention.sum())


def _states(anatomy: Anatomy, batch: Batch) -> Tensor:
    """Last hidden states of the positions that are compared: [positions, width]."""
    states = trunk_states(anatomy, batch.inputs).flatten(0, 1)
    return states if anatomy.family.task == "causal" else states.index_select(0, batch.places)


def _sum_distances(distance: Distance, anatomy: Anatomy, batch: Batch, intact: Tensor, pruned: Tensor) -> Tensor:
    """Distances summed by window, float64, logits a chunk at a time: [windows]."""
    size = chunk_positions(anatomy, intact.device)
    parts = [
        distance(*(head_logits(anatomy, states[None])[0].float() for states in pair))
        for pair in zip(intact.split(size), pruned.split(size), strict=True)
    ]
    values = torch.cat(parts)
    if anatomy.family.task != "causal":
        return torch.zeros(len(batch), dtype=values.dtype, device=values.device).index_add_(0, batch.rows, values)
    values = values.reshape(len(batch), -1)
    mask = batch.inputs.get("attention_mask")
    return (values if mask is None else values.where(mask.bool(), 0)).sum(1)
