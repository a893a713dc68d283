"""Losses of a tagger, from log-probabilities of tags and target probabilities.

All take ``found`` (log-probabilities) and ``wanted`` (targets) [batch, time, tags] and ``mask`` [batch, time] bool, and
return a scalar, the mean over the pieces of a batch without padding. ``wanted`` is one-hot for gold tags and soft for a
teacher's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

GAMMA = 2.0
"""Focusing parameter of the focal loss."""
SMOOTH = 1e-8

TagLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Negative log-probability of the target tags."""
    return -_mean((found * wanted).sum(-1), mask)


def focal(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy times (1 - p) squared (Lin et al. 2017, equation 4): hard pieces weigh more."""
    return -_mean((wanted * (1 - found.exp()) ** GAMMA * found).sum(-1), mask)


def dice(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean over tags of 1 minus the Dice coefficient, over the whole batch.

    Deviation: YNU-HPCC's code takes a sigmoid per tag, here the probabilities of all tags sum to 1.
    """
    real = mask[..., None]
    ours, theirs = found.exp() * real, wanted * real
    both = 2 * (ours * theirs).sum((0, 1)) + SMOOTH
    return (1 - both / (ours.sum((0, 1)) + theirs.sum((0, 1)) + SMOOTH)).mean()


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over pieces without padding."""
    return torch.where(mask, values, 0).sum() / mask.sum()


TAG_LOSSES: dict[str, TagLoss] = {"cross-entropy": cross_entropy, "focal": focal, "dice": dice}
