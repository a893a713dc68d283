"""The loss without each candidate, all candidates of a step in one pass over the text.

Candidates share everything up to their block. For one mini-batch at a time the model is run once and what every layer
and every attention returned is kept; a candidate's run then replays the layers before its block, and the attention
beside it, and computes only what comes after. The same modules see tensors of the same shapes and values as in the
plain loop (mask one block, run the model), so the result equals it bit for bit. With 2L equal blocks the work is
about half: L (2L+1) block evaluations and L base ones, against 2L (2L-1).

Several processes (torch.distributed) share the mini-batches; sums are taken in the order of the text, so their number
does not change a bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from remodeler import processes
from remodeler.blocks import KINDS, Anatomy, Block, Replay, bypassed, swapped
from remodeler.logprobs import Batch, batch_nll, batch_size, device_of, sum_dtype, to_batch, trunk_states
from remodeler.texts import Windows

Unit = tuple[Block, ...]
"""Blocks that are removed together: one, or the attention and the MLP of a layer."""
Progress = Callable[[float], None]
"""Told the share of the step that is done."""


@dataclass(frozen=True)
class Recording:
    """What one run of the model returned, to be replayed."""

    layers: list[Any]
    """Outputs of the top-level layers, in order."""
    attentions: dict[Block, Any]


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
    device = device_of(anatomy.model)
    size = size or batch_size(windows, device)
    starts = range(0, len(windows), size)
    sums = torch.zeros(len(starts), len(units), dtype=sum_dtype(device), device=device)
    mine = range(processes.rank(), len(starts), processes.world())
    with torch.no_grad(), bypassed(anatomy, removed):
        for done, row in enumerate(mine):
            start = starts[row]
            batch = to_batch(windows[start : start + size], device)
            for column, value in enumerate(_candidates(anatomy, batch, units)):
                sums[row, column] = value
                if progress:
                    progress((done + (column + 1) / len(units)) / len(mine))
    if processes.world() > 1:
        distributed.all_reduce(sums)  # every entry is written by one process: adding zeros is exact
    return [total / windows.tokens for total in sums.sum(0).tolist()]


def _candidates(anatomy: Anatomy, batch: Batch, units: Sequence[Unit]) -> Iterator[Tensor]:
    recording = record(anatomy, batch)
    for unit in units:
        with replayed(anatomy, recording, unit), bypassed(anatomy, unit):
            yield batch_nll(anatomy, batch)


def record(anatomy: Anatomy, batch: Batch) -> Recording:
    """Run the trunk once and keep what its layers and attentions return."""
    tops = [layers.get_submodule(name) for layers, name in anatomy.top_layers()]
    layers: list[Any] = [None] * len(tops)
    attentions: dict[Block, Any] = {}
    with ExitStack() as hooks:
        for index, layer in enumerate(tops):
            _keep(hooks, layer, layers, index)
        for block, branch in anatomy.branches.items():
            if block.kind == "attention":
                _keep(hooks, branch.site.layer.get_submodule(branch.names["modules"][-1]), attentions, block)
        trunk_states(anatomy, batch.inputs)
    return Recording(layers, attentions)


def _keep(hooks: ExitStack, module: torch.nn.Module, into: Any, key: Any) -> None:
    hooks.callback(module.register_forward_hook(lambda _, __, outputs: into.__setitem__(key, outputs)).remove)


@contextmanager
def replayed(anatomy: Anatomy, recording: Recording, unit: Unit) -> Iterator[None]:
    """Layers before the unit, and attentions before it in its own layer, hand back what the recording holds."""
    start = min(anatomy.branches[block].site.index for block in unit)
    begin = min(order(anatomy, block) for block in unit)
    with ExitStack() as swaps:
        for (layers, name), outputs in zip(anatomy.top_layers()[:start], recording.layers, strict=False):
            swaps.enter_context(swapped(layers, name, Replay(outputs, layers.get_submodule(name))))
        for block, outputs in recording.attentions.items():
            branch = anatomy.branches[block]
            if branch.site.index == start and order(anatomy, block) < begin:
                path = branch.names["modules"][-1]
                swaps.enter_context(
                    swapped(branch.site.layer, path, Replay(outputs, branch.site.layer.get_submodule(path)))
                )
        yield


def order(anatomy: Anatomy, block: Block) -> tuple[int, int]:
    """When a block is computed."""
    return anatomy.branches[block].site.position, KINDS.index(block.kind)
