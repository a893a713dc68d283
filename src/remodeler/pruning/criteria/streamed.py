"""The numbers of a sweep for a model whose layers are read from disk: layer by layer over many mini-batches at once.

A sweep takes one mini-batch after the other through the whole model; streamed, that reads the model once for each of
them and, behind each candidate, once more. Here a layer is read once, and takes all mini-batches of a group on, of
the model without what is removed and of every candidate that differs from it by then: hidden states stay, weights go.
The same modules see the same tensors in another order, so every number is the sweep's, bit for bit.

Memory: one layer, and the hidden states of a group, (candidates + 1) x tokens x width; as many mini-batches make a
group as fit (:func:`remodeler.model.streaming.allowance`). Reading: the layers once a group, where a loop over the
candidates with offloaded weights reads them once for every candidate and mini-batch.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.layerwise import Run, advance, group_size, pass_on, record, replayed, replaying
from remodeler.model.logprobs import sum_dtype, trunk_states, window_nll
from remodeler.model.minibatches import Batch, agreed_batch_size, device_of, to_batch
from remodeler.model.streaming import held
from remodeler.runs import processes
from remodeler.runs.progress import Progress, part, silent
from remodeler.runs.units import Block

Unit = tuple[Block, ...]
Measure = Callable[[Anatomy, Batch], Tensor]
Prepare = Callable[[Anatomy, Batch], Measure]


@dataclass
class BatchState:
    """How far a mini-batch has come: the outputs of the layers that are done, to be replayed."""

    batch: Batch
    run: Run
    base: list[Any] = field(default_factory=list)
    """Without what is removed."""
    intact: list[Any] = field(default_factory=list)
    """With all blocks, where that is asked for."""
    units: dict[int, list[Any]] = field(default_factory=dict)
    """By candidate, for those that differ from the base by now."""


@torch.no_grad()
def window_scores(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    units: Sequence[Unit],
    size: int | None = None,
    progress: Progress = silent,
    prepare: Prepare | None = None,
    shape: tuple[int, ...] = (),
) -> Tensor:
    """What :func:`remodeler.pruning.criteria.sweep.window_scores` returns, with the model read once for each group.

    ``prepare`` finds all layers of the intact model done: the model may be run, its inner layers are not seen.
    """
    device = device_of(anatomy.model)
    size = size or agreed_batch_size(anatomy, windows)
    scores = torch.zeros(len(windows), len(units), *shape, dtype=sum_dtype(device), device=device)
    mine = range(0, len(windows), size)[processes.rank() :: processes.world()]
    models = len(units) + 1 + (prepare is not None)
    together = group_size(anatomy, size * windows.ids.shape[1], models)
    for begin in range(0, len(mine), together):
        starts = mine[begin : begin + together]
        fronts = [_front(anatomy, windows, start, size, device) for start in starts]
        group = part(progress, begin / len(mine), len(starts) / len(mine))
        _advance(anatomy, fronts, removed, units, prepare is not None, group)
        for start, front in zip(starts, fronts, strict=True):
            scores[start : start + len(front.batch)] = _measure(anatomy, front, len(units), prepare)
        group(1.0, "")
    if processes.world() > 1:
        distributed.all_reduce(scores)  # every entry is written by one process: adding zeros is exact
    return scores


def _front(anatomy: Anatomy, windows: Windows, start: int, size: int, device: torch.device) -> BatchState:
    batch = to_batch(windows[start : start + size], device)
    return BatchState(batch, partial(trunk_states, anatomy, batch.inputs))


def _advance(
    anatomy: Anatomy,
    fronts: Sequence[BatchState],
    removed: Sequence[Block],
    units: Sequence[Unit],
    intact: bool,
    progress: Progress,
) -> None:
    """Take all mini-batches of a group through all layers, each of which is read once."""
    starts = [min((anatomy.branches[block].site.index for block in unit), default=-1) for unit in units]
    layers = len(anatomy.top_layers())
    for index in range(layers):
        # Only the intact model needs the weights of what is removed.
        with held(anatomy.model, index) if intact else nullcontext():
            for front in fronts if intact else ():
                front.intact = pass_on(anatomy, front.intact, advance(anatomy, front.intact, front.run))
            with bypassed(anatomy, removed), held(anatomy.model, index):
                for front in fronts:
                    _layer(anatomy, front, units, starts, index)
        progress((index + 1) / (layers + 1), "")


def _layer(anatomy: Anatomy, front: BatchState, units: Sequence[Unit], starts: Sequence[int], index: int) -> None:
    """Take one mini-batch through one layer: the base, candidates that begin in it, and those that began before."""
    recording = record(anatomy, front.base, front.run)
    for column, unit in enumerate(units):
        if starts[column] == index:
            with replayed(anatomy, recording, unit), bypassed(anatomy, unit):
                output = advance(anatomy, front.base, front.run)
            front.units[column] = pass_on(anatomy, front.base, output)
        elif column in front.units:
            with bypassed(anatomy, unit):
                output = advance(anatomy, front.units[column], front.run)
            front.units[column] = pass_on(anatomy, front.units[column], output)
    front.base = pass_on(anatomy, front.base, recording.output)


def _measure(anatomy: Anatomy, front: BatchState, units: int, prepare: Prepare | None) -> Tensor:
    """Numbers of one mini-batch: [windows of the batch, units, ...]."""
    measure: Measure = window_nll
    if prepare:
        with replaying(anatomy, front.intact):
            measure = prepare(anatomy, front.batch)
    columns = []
    for column in range(units):
        with replaying(anatomy, front.units.pop(column, front.base)):
            columns.append(measure(anatomy, front.batch))
    return torch.stack(columns, 1)
