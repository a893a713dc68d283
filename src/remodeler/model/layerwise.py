"""Run a model layer by layer: keep what one layer returned, and replay it where the earlier layers were.

Any run of the model is stopped behind the layer that was asked for, and begins, with replayed outputs, behind those
that are known. So no family's forward is rewritten, and the modules see what they see in a whole pass, bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from remodeler.model import streaming
from remodeler.model.blocks import Anatomy, Replay, swapped
from remodeler.packed import text_of
from remodeler.runs.units import KINDS, MIXING, Block

Run = Callable[[], object]
"""Runs the model over one mini-batch."""


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


def order(anatomy: Anatomy, block: Block) -> tuple[int, int]:
    """When a block is computed."""
    return anatomy.branches[block].site.position, KINDS.index(block.kind)


def record(anatomy: Anatomy, earlier: list[Any], run: Run) -> Recording:
    """Run one layer behind those whose outputs are known, and keep what it and its attentions return."""
    kept: dict[Any, Any] = {}
    with ExitStack() as hooks:
        for block, branch in anatomy.branches.items():
            if block.kind in MIXING and branch.site.index == len(earlier):
                _keep(hooks, branch.site.layer.get_submodule(branch.names["modules"][-1]), kept, block)
        output = advance(anatomy, earlier, run)
    return Recording(earlier, output, kept)


def advance(anatomy: Anatomy, earlier: list[Any], run: Run) -> Any:
    """What the first layer returns that is not known yet."""
    with replaying(anatomy, earlier):
        return output_of(anatomy, len(earlier), run)


def output_of(anatomy: Anatomy, index: int, run: Run) -> Any:
    """What a top-level layer returns in a run, which ends there."""
    layers, name = anatomy.top_layers()[index]
    kept: dict[str, Any] = {}
    with ExitStack() as hooks:
        _keep(hooks, layers.get_submodule(name), kept, "layer", last=True)
        with suppress(_Reached):
            run()
    return kept["layer"]


def pass_on(anatomy: Anatomy, earlier: list[Any], output: Any) -> list[Any]:
    """Outputs to replay before the next layer: all layers of one list hand on what its last one returned."""
    lists = [layers for layers, _ in anatomy.top_layers()[: len(earlier) + 1]]
    return [output if layers is lists[-1] else old for layers, old in zip(lists, [*earlier, output], strict=True)]


@contextmanager
def replaying(anatomy: Anatomy, earlier: list[Any]) -> Iterator[None]:
    """The first layers hand back what is known of them."""
    with ExitStack() as swaps:
        for (layers, name), outputs in zip(anatomy.top_layers(), earlier, strict=False):
            swaps.enter_context(swapped(layers, name, Replay(outputs, layers.get_submodule(name))))
        yield


@contextmanager
def replayed(anatomy: Anatomy, recording: Recording, unit: Sequence[Block]) -> Iterator[None]:
    """Layers before the recorded one, and attentions before the unit in it, hand back what they returned."""
    begin = min(order(anatomy, block) for block in unit)
    with replaying(anatomy, recording.earlier), ExitStack() as swaps:
        for block, outputs in recording.attentions.items():
            if order(anatomy, block) < begin:
                layer, path = anatomy.branches[block].site.layer, anatomy.branches[block].names["modules"][-1]
                swaps.enter_context(swapped(layer, path, Replay(outputs, layer.get_submodule(path))))
        yield


def through(anatomy: Anatomy, runs: Sequence[Run]) -> list[list[Any]]:
    """Outputs of all layers, to be replayed, for every run: of a streamed model each layer is read once for all."""
    known: list[list[Any]] = [[] for _ in runs]
    for index in range(len(anatomy.top_layers())):
        with streaming.held(anatomy.model, index):
            for row, run in enumerate(runs):
                known[row] = pass_on(anatomy, known[row], advance(anatomy, known[row], run))
    return known


def _keep(hooks: ExitStack, module: torch.nn.Module, into: dict[Any, Any], key: Any, last: bool = False) -> None:
    def hook(_: torch.nn.Module, __: Any, outputs: Any) -> None:
        into[key] = outputs
        if last:
            raise _Reached

    hooks.callback(module.register_forward_hook(hook).remove)


def group_size(anatomy: Anatomy, tokens: int, models: int = 1) -> int:
    """How many mini-batches of so many tokens go through a streamed model together, with some variants of it.

    Their hidden states are all that is kept; at least one mini-batch goes, whatever the memory.
    """
    config, stacks = text_of(anatomy.model.config), len(anatomy.family.stacks)
    state = tokens * int(config.hidden_size) * int(anatomy.model.dtype.itemsize) * stacks
    return max(1, streaming.allowance(anatomy.model) // (state * models))
