"""The loss without each candidate, all candidates of a step in one pass over the text.

Candidates share everything up to their block. For one mini-batch at a time the model is run once, layer by layer, and
what the last layer and its attention returned is kept; the candidates of the next layer replay that, and compute only
what comes after their block. The same modules see tensors of the same shapes and values as in the plain loop (mask one
block, run the model), so the result equals it bit for bit, and beyond the plain loop's memory there is one layer's
output. With 2L equal blocks the work is about half: L (2L + 1) block evaluations, 2L of them the shared ones, against
2L (2L - 1).

Several processes (torch.distributed) share the mini-batches; sums are taken in the order of the text, so their number
does not change a bit.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed

from remodeler.data.windows import Windows
from remodeler.model import streaming
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.layerwise import pass_on, record, replayed
from remodeler.model.logprobs import sum_dtype, trunk_states, window_nll
from remodeler.model.minibatches import Batch, agreed_batch_size, device_of, to_batch
from remodeler.pruning.criteria import streamed
from remodeler.runs import processes
from remodeler.runs.progress import Progress, silent
from remodeler.runs.units import Block, Unit

Measure = Callable[[Anatomy, Batch], Tensor]
"""What is asked of a model: a number, or some, for every window of the batch, [windows, ...] float64 on the device."""


def loss(anatomy: Anatomy, batch: Batch) -> Measure:
    """The negative log-likelihood of every window; nothing of the intact model is needed."""
    return window_nll


def sweep(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    units: Sequence[Unit],
    size: int | None = None,
    progress: Progress = silent,
) -> list[float]:
    """Mean negative log-likelihood of the model without ``removed`` and without each unit in turn.

    Args:
        anatomy: the traced model; it is left as it was.
        windows: the calibration text.
        removed: blocks that are gone already.
        units: the candidates.
        size: windows per mini-batch; by default chosen for the device.
        progress: called with the share done.
    """
    losses = window_scores(anatomy, windows, removed, units, size, progress)
    return [total / windows.tokens for total in losses.sum(0).tolist()]


@torch.no_grad()
def window_scores(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    units: Sequence[Unit],
    size: int | None = None,
    progress: Progress = silent,
    prepare: Callable[[Anatomy, Batch], Measure] = loss,
    shape: tuple[int, ...] = (),
) -> Tensor:
    """A number for every window and unit, by default the window's loss without the unit: [windows, units] float64.

    Args:
        anatomy: the traced model; it is left as it was.
        windows: the calibration text.
        removed: blocks that are gone already.
        units: the candidates.
        size: windows per mini-batch; by default chosen for the device.
        progress: called with the share done.
        prepare: called for every mini-batch with the model intact; gives what is asked of every candidate.
        shape: of what the measure says of one window, where it is more than a number: [windows, units, *shape] then.
    """
    if streaming.streamed_weights(anatomy.model):
        asked = None if prepare is loss else prepare
        return streamed.window_scores(anatomy, windows, removed, units, size, progress, asked, shape)
    device = device_of(anatomy.model)
    size = size or agreed_batch_size(anatomy, windows)
    starts = range(0, len(windows), size)
    scores = torch.zeros(len(windows), len(units), *shape, dtype=sum_dtype(device), device=device)
    mine = range(processes.rank(), len(starts), processes.world())
    for done, number in enumerate(mine):
        start = starts[number]
        batch = to_batch(windows[start : start + size], device)
        measure = prepare(anatomy, batch)
        with bypassed(anatomy, removed):
            for count, (column, values) in enumerate(_candidates(anatomy, batch, units, measure), start=1):
                scores[start : start + len(batch), column] = values
                progress((done + count / len(units)) / len(mine), "")
    if processes.world() > 1:
        distributed.all_reduce(scores)  # every entry is written by one process: adding zeros is exact
    return scores


def _candidates(
    anatomy: Anatomy, batch: Batch, units: Sequence[Unit], measure: Measure
) -> Iterator[tuple[int, Tensor]]:
    """Place and measure of every unit, from the first layer to the last, so that one layer's outputs live at a time."""
    if len(units) == 1:  # nobody to share a prefix with
        with bypassed(anatomy, units[0]):
            yield 0, measure(anatomy, batch)
        return
    starts = [min(anatomy.branches[block].site.index for block in unit) for unit in units]
    earlier: list[Any] = []
    for index in range(max(starts, default=-1) + 1):
        recording = record(anatomy, earlier, partial(trunk_states, anatomy, batch.inputs))
        for column, unit in enumerate(units):
            if starts[column] == index:
                with replayed(anatomy, recording, unit), bypassed(anatomy, unit):
                    yield column, measure(anatomy, batch)
        earlier = pass_on(anatomy, earlier, recording.output)
