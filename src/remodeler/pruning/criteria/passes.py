"""One pass over the text in which every block is looked at, where a sweep would run the model once a candidate.

Windows are shared out among processes by the mini-batch; every number of the table is written by one process, so that
how many there are does not change a bit of the sums. What a block adds to the residual stream is read by hooks: the
output of its last module or, where a norm of the block reads that output (Gemma 2, OLMo 2), the output of the norm.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import sum_dtype
from remodeler.model.minibatches import Batch, agreed_batch_size, device_of, to_batch
from remodeler.packed_layers import first
from remodeler.runs import processes
from remodeler.runs.progress import Progress, silent
from remodeler.runs.units import Block

Look = Callable[[Batch, Tensor], None]
"""Takes a mini-batch and its rows of the table, [windows of the batch, columns], and fills them."""
Observer = Callable[[Block, Tensor | None, Tensor], None]
"""Takes a block, the stream it is added to inside (None for a bare branch), and what the block returned."""


def by_window(
    anatomy: Anatomy,
    windows: Windows,
    columns: int,
    look: Look,
    size: int | None = None,
    progress: Progress = silent,
) -> Tensor:
    """A number for every window and column: [windows, columns] float64 on the device.

    Args:
        anatomy: the traced model.
        windows: the text.
        columns: how many numbers a window has.
        look: called once for every mini-batch of this process.
        size: windows per mini-batch; by default chosen for the device.
        progress: called with the share done.
    """
    device = device_of(anatomy.model)
    size = size or agreed_batch_size(anatomy, windows)
    table = torch.zeros(len(windows), columns, dtype=sum_dtype(device), device=device)
    mine = range(0, len(windows), size)[processes.rank() :: processes.world()]
    for done, start in enumerate(mine, start=1):
        batch = to_batch(windows[start : start + size], device)
        look(batch, table[start : start + len(batch)])
        progress(done / len(mine), "")
    if processes.world() > 1:
        distributed.all_reduce(table)  # adding zeros is exact
    return table


@contextmanager
def observing(anatomy: Anatomy, blocks: Iterable[Block], observer: Observer) -> Iterator[None]:
    """Show ``observer`` what every block returns, as it is computed.

    Where a norm of the block reads that, it is called again with what the norm returns: the last call holds.
    """
    latest: dict[Block, Tensor] = {}
    with ExitStack() as hooks:
        for block in blocks:
            layer, names = anatomy.branches[block].site.layer, anatomy.branches[block].names
            module = layer.get_submodule(names["modules"][-1])
            _hook(hooks, module, partial(_observe, observer, latest, block, names["stream"]))
            for path in names["norms"]:
                _hook(hooks, layer.get_submodule(path), partial(_observe_norm, observer, latest, block))
        yield


def input_states(args: tuple[Any, ...], kwargs: dict[str, Any], place: int = 0) -> Tensor:
    """The hidden states among what a module was called with; ``place`` counts positional arguments."""
    value: Tensor = args[place] if args else kwargs["hidden_states"]
    return value


def _hook(hooks: ExitStack, module: nn.Module, hook: Callable[..., None]) -> None:
    hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)


def _observe(
    observer: Observer,
    latest: dict[Block, Tensor],
    block: Block,
    stream: int | None,
    _: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outputs: Any,
) -> None:
    latest.clear()  # a norm that reads the output comes before the next block: no need to hold more than one
    latest[block] = first(outputs)
    observer(block, None if stream is None else input_states(args, kwargs, stream), first(outputs))


def _observe_norm(
    observer: Observer,
    latest: dict[Block, Tensor],
    block: Block,
    _: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outputs: Any,
) -> None:
    if input_states(args, kwargs) is latest.get(block):
        observer(block, None, first(outputs))
