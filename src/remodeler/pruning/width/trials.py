"""The loss of a model under masks: of groups (heads, channels), or of whole blocks.

A step's masks see the same batch. Several processes share out the masks and the parts of the batch; every loss is
taken by one process alone, so that all have the same bits, whatever their number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import batch_nll, sum_dtype
from remodeler.model.minibatches import Batch, agreed_batch_size, device_of, to_batch
from remodeler.model.structures import Structure
from remodeler.model.widths import masked
from remodeler.pruning.width.policy import Trial
from remodeler.runs import processes
from remodeler.runs.units import Block, Unit


@dataclass(frozen=True)
class Feed:
    """The batches of the steps: all windows in every epoch, batches in another order in each."""

    windows: Windows
    batch: int
    """Windows a step."""
    size: int
    """Windows at once, of those of a step."""
    seed: int

    def of(self, step: int) -> Windows:
        """The windows of a step."""
        starts = range(0, len(self.windows), self.batch)
        epoch, place = divmod(step, len(starts))
        order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch))
        start = starts[int(order[place])]
        return self.windows[start : start + self.batch]


def feed(anatomy: Anatomy, windows: Windows, batch: int, size: int | None, seed: int) -> Feed:
    """Batches for a model's device."""
    at_once = size or agreed_batch_size(anatomy, windows)
    return Feed(windows, min(batch, len(windows)), at_once, seed)


@contextmanager
def group_trial(
    anatomy: Anatomy, removed: Sequence[Block], structures: Mapping[Block, Structure], feed: Feed
) -> Iterator[Trial]:
    """Losses of masks over groups, those of all structures in a row: the masks stay on the device."""
    sizes = [structure.groups for structure in structures.values()]
    row = torch.ones(sum(sizes), device=device_of(anatomy.model), dtype=anatomy.model.dtype)
    masks = dict(zip(structures, row.split(sizes), strict=True))  # views: the hooks see what is put into the row

    def nll(mask: Tensor, batch: Batch) -> Tensor:
        row.copy_(mask)
        return batch_nll(anatomy, batch)

    with bypassed(anatomy, removed), masked(anatomy, masks):
        yield lambda step, drawn: _losses(anatomy, feed, step, drawn, nll)


@contextmanager
def unit_trial(anatomy: Anatomy, removed: Sequence[Block], units: Sequence[Unit], feed: Feed) -> Iterator[Trial]:
    """Losses of masks over blocks or layers: those that are masked are not computed."""

    def nll(mask: Tensor, batch: Batch) -> Tensor:
        off = [block for unit, stays in zip(units, mask.tolist(), strict=True) if not stays for block in unit]
        with bypassed(anatomy, [*removed, *off]):
            return batch_nll(anatomy, batch)

    yield lambda step, drawn: _losses(anatomy, feed, step, drawn, nll).cpu()


@torch.no_grad()
def _losses(anatomy: Anatomy, feed: Feed, step: int, masks: Tensor, nll: Callable[[Tensor, Batch], Tensor]) -> Tensor:
    """Mean loss a token of every mask on a step's batch: [K] on the model's device."""
    device, windows = device_of(anatomy.model), feed.of(step)
    starts = range(0, len(windows), feed.size)
    sums = torch.zeros(len(masks), len(starts), dtype=sum_dtype(device), device=device)
    for item in range(processes.rank(), sums.numel(), processes.world()):
        number, part = divmod(item, len(starts))
        batch = to_batch(windows[starts[part] : starts[part] + feed.size], device)
        sums[number, part] = nll(masks[number], batch)
    if processes.world() > 1:
        distributed.all_reduce(sums)  # every entry is written by one process: adding zeros is exact
    return sums.sum(1) / windows.tokens
