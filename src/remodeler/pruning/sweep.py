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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from remodeler import processes, streaming
from remodeler.blocks import KINDS, Anatomy, Block, Replay, bypassed, swapped
from remodeler.logprobs import Batch, batch_size, device_of, sum_dtype, to_batch, trunk_states, window_nll
from remodeler.pruning import streamed
from remodeler.texts import Windows

Unit = tuple[Block, ...]
"""Blocks that are removed together: one, or the attention and the MLP of a layer."""
Progress = Callable[[float], None]
"""Told the share of the step that is done."""
Measure = Callable[[Anatomy, Batch], Tensor]
"""What is asked of a model: a number, or some, for every window of the batch, [windows, ...] float64 on the device."""


def loss(anatomy: Anatomy, batch: Batch) -> Measure:
    """The negative log-likelihood of every window; nothing of the intact model is needed."""
    return window_nll


@dataclass(frozen=True)
class Recording:
    """What the intact modules up to one layer returned, to be replayed."""

    earlier: list[Any]
    """Stand-ins for the outputs of the top-level layers before it, in order; of each list only the last is read."""
    output: Any
    """What the layer itself returned."""
    attentions: dict[Block, Any]
    """What the attentions in it returned."""


class _Reached(Exception):
    """The layer that was to be recorded is done: what comes after it need not run."""


def sweep(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    units: Sequence[Unit],
    size: int | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Mean negative log-likelihood of the model without ``removed`` and without each unit in turn.

    Args:
        anatomy: the traced model; it is left as it was.
        windows: the calibration text.
        removed: blocks that are gone already.
        units: the candidates.
        size: windows a mini-batch; by default chosen for the device.
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
    progress: Progress | None = None,
    prepare: Callable[[Anatomy, Batch], Measure] = loss,
    shape: tuple[int, ...] = (),
) -> Tensor:
    """A number for every window and unit, by default the window's loss without the unit: [windows, units] float64.

    Args:
        anatomy: the traced model; it is left as it was.
        windows: the calibration text.
        removed: blocks that are gone already.
        units: the candidates.
        size: windows a mini-batch; by default chosen for the device.
        progress: called with the share done.
        prepare: called for every mini-batch with the model intact; gives what is asked of every candidate.
        shape: of what the measure says of one window, where it is more than a number: [windows, units, *shape] then.
    """
    if streaming.streamed(anatomy.model):
        asked = None if prepare is loss else prepare
        return streamed.window_scores(anatomy, windows, removed, units, size, progress, asked, shape)
    device = device_of(anatomy.model)
    size = size or batch_size(windows, device)
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
                if progress:
                    progress((done + count / len(units)) / len(mine))
    if processes.world() > 1:
        distributed.all_reduce(scores)  # every entry is written by one process: adding zeros is exact
    return scores


def _candidates(
    anatomy: Anatomy, batch: Batch, units: Sequence[Unit], measure: Measure
) -> Iterator[tuple[int, Tensor]]:
    """Place and measure of every unit, from the first layer to the last, so that one layer's outputs live at a time."""
    starts = [min(anatomy.branches[block].site.index for block in unit) for unit in units]
    earlier: list[Any] = []
    for index in range(max(starts, default=-1) + 1):
        recording = record(anatomy, batch, earlier)
        for column, unit in enumerate(units):
            if starts[column] == index:
                with replayed(anatomy, recording, unit), bypassed(anatomy, unit):
                    yield column, measure(anatomy, batch)
        earlier = _passed(anatomy, recording)


def _passed(anatomy: Anatomy, recording: Recording) -> list[Any]:
    """Outputs to replay before the next layer: all layers of one list hand on what its last one returned."""
    lists = [layers for layers, _ in anatomy.top_layers()[: len(recording.earlier) + 1]]
    known = [*recording.earlier, recording.output]
    return [recording.output if layers is lists[-1] else old for layers, old in zip(lists, known, strict=True)]


def record(anatomy: Anatomy, batch: Batch, earlier: list[Any]) -> Recording:
    """Run one layer behind those whose outputs are known, and keep what it and its attentions return."""
    layers, name = anatomy.top_layers()[len(earlier)]
    kept: dict[Any, Any] = {}
    with ExitStack() as swaps:
        _replay(swaps, anatomy, earlier)
        for block, branch in anatomy.branches.items():
            if block.kind == "attention" and branch.site.index == len(earlier):
                _keep(swaps, branch.site.layer.get_submodule(branch.names["modules"][-1]), kept, block)
        _keep(swaps, layers.get_submodule(name), kept, "layer", last=True)
        with suppress(_Reached):
            trunk_states(anatomy, batch.inputs)
    output = kept.pop("layer")
    return Recording(earlier, output, kept)


def _keep(hooks: ExitStack, module: torch.nn.Module, into: dict[Any, Any], key: Any, last: bool = False) -> None:
    def hook(_: torch.nn.Module, __: Any, outputs: Any) -> None:
        into[key] = outputs
        if last:
            raise _Reached

    hooks.callback(module.register_forward_hook(hook).remove)


def _replay(swaps: ExitStack, anatomy: Anatomy, earlier: list[Any]) -> None:
    for (layers, name), outputs in zip(anatomy.top_layers(), earlier, strict=False):
        swaps.enter_context(swapped(layers, name, Replay(outputs, layers.get_submodule(name))))


@contextmanager
def replayed(anatomy: Anatomy, recording: Recording, unit: Unit) -> Iterator[None]:
    """Layers before the recorded one, and attentions before the unit in it, hand back what they returned."""
    begin = min(order(anatomy, block) for block in unit)
    with ExitStack() as swaps:
        _replay(swaps, anatomy, recording.earlier)
        for block, outputs in recording.attentions.items():
            if order(anatomy, block) < begin:
                layer, path = anatomy.branches[block].site.layer, anatomy.branches[block].names["modules"][-1]
                swaps.enter_context(swapped(layer, path, Replay(outputs, layer.get_submodule(path))))
        yield


def order(anatomy: Anatomy, block: Block) -> tuple[int, int]:
    """When a block is computed."""
    return anatomy.branches[block].site.position, KINDS.index(block.kind)
