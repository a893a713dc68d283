"""What training a tagger minimises, one function each: from log-probabilities of tags, and how likely each tag is.

All take ``found`` and ``wanted`` [batch, time, tags] and ``mask`` [batch, time] bool, and return a scalar, the mean
over the real pieces of a batch. ``wanted`` is one-hot for gold tags and soft for a teacher's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

GAMMA = 2.0
"""How strongly focal loss turns away from what is sure already."""
SMOOTH = 1e-8

TagLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Minus the log-probability of the wanted tags."""
    return -_mean((found * wanted).sum(-1), mask)


def focal(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy times (1 - p) squared (Lin et al. 2017, equation 4): hard pieces count more."""
    return -_mean((wanted * (1 - found.exp()) ** GAMMA * found).sum(-1), mask)


def dice(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """1 minus the Dice coefficient of every tag, over the whole batch; the mean of the tags.

    Deviation: YNU-HPCC's code takes a sigmoid for every tag, here the probabilities of all tags add up to 1.
    """
    real = mask[..., None]
    ours, theirs = found.exp() * real, wanted * real
    both = 2 * (ours * theirs).sum((0, 1)) + SMOOTH
    return (1 - both / (ours.sum((0, 1)) + theirs.sum((0, 1)) + SMOOTH)).mean()


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over the real pieces."""
    return torch.where(mask, values, 0).sum() / mask.sum()


TAG_LOSSES: dict[str, TagLoss] = {"cross-entropy": cross_entropy, "focal": focal, "dice": dice}
