"""How much a block or a layer changes the residual stream that passes it: one forward pass, no loss.

``block-influence`` is one minus the mean cosine of the states before and after: of a layer ShortGPT's (arXiv
2403.03853), of a block LLM-Drop's (arXiv 2406.15786, with its ``layer_drop_norm``: x what the norm reads, y = x +
branch, so that the norm goes with the branch). ``relative-magnitude`` is |f(x)| / |x + f(x)|, a baseline of ShortGPT.
Both are means over all real tokens.

The stream before a block is what the first of its modules or norms reads; the stream after it is what the next block
of the layer reads, or what the layer returns. Where attention and MLP read the same input (GPT-J, Falcon), the stream
between them exists nowhere and is put together: x + attention(x). What several blocks add is added up. Deviation: the
cosine of an all-zero state counts as 0 (where it is undefined, the code of ShortGPT takes 0.5).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.layerwise import order
from remodeler.model.logprobs import trunk_states
from remodeler.model.minibatches import Batch
from remodeler.packed_layers import first
from remodeler.pruning.criteria.passes import by_window, input_states, observing
from remodeler.runs.progress import Progress, silent
from remodeler.runs.units import Block, Unit

Change = tuple[Tensor, Tensor]
"""The stream before a block, and what the block adds to it: [windows, length, width] float32."""
TINY = 1e-12
Take = Callable[[dict[Block, Change]], None]


def block_influence(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
    **_: Any,
) -> list[float]:
    """One minus the mean cosine of the states before and after the candidate: 0 where nothing changes, 2 at most."""
    return _means(_angle, anatomy, windows, removed, candidates, size, progress)


def relative_magnitude(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
    **_: Any,
) -> list[float]:
    """Mean of |f(x)| / |x + f(x)|, f what the candidate adds to the stream x."""
    return _means(_share, anatomy, windows, removed, candidates, size, progress)


def _angle(before: Tensor, change: Tensor) -> Tensor:
    cosine: Tensor = cosine_similarity(before, before + change, dim=-1)
    return 1 - cosine


def _share(before: Tensor, change: Tensor) -> Tensor:
    added, after = torch.linalg.vector_norm(change, dim=-1), torch.linalg.vector_norm(before + change, dim=-1)
    return torch.div(added, after.clamp(min=TINY))


@torch.no_grad()
def _means(
    measure: Callable[[Tensor, Tensor], Tensor],
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    size: int | None,
    progress: Progress,
) -> list[float]:
    """Mean over the real tokens of a measure of (before, change), [windows, length, width] to [windows, length]."""

    def look(batch: Batch, rows: Tensor) -> None:
        def fill(column: int, before: Tensor, change: Tensor) -> None:
            values, real = measure(before, change), _real(anatomy, candidates[column], batch)
            values = values if real is None else values.where(real.to(values.device), 0)
            rows[:, column] = values.sum(1, dtype=rows.dtype)

        with ExitStack() as hooks:
            _watch(hooks, anatomy, removed, len(batch), Pending(candidates, fill).take)
            trunk_states(anatomy, batch.inputs)

    with bypassed(anatomy, removed):
        sums = by_window(anatomy, windows, len(candidates), look, size, progress).sum(0).tolist()
    return [total / _count(anatomy, unit, windows) for total, unit in zip(sums, candidates, strict=True)]


def _decodes(anatomy: Anatomy, unit: Unit) -> bool:
    """Whether a unit lies in the decoder of an encoder-decoder model."""
    return anatomy.family.task == "seq2seq" and anatomy.branches[unit[0]].site.stack is anatomy.family.stacks[-1]


def _real(anatomy: Anatomy, unit: Unit, batch: Batch) -> Tensor | None:
    """Which tokens of the unit's stack are no padding: [windows, length] bool, None where all are real."""
    if not _decodes(anatomy, unit):
        mask = batch.inputs.get("attention_mask")
        return None if mask is None else mask.bool()
    real = torch.zeros_like(batch.inputs["decoder_input_ids"], dtype=torch.bool)
    return real.flatten().index_fill(0, batch.places, True).view_as(real)


def _count(anatomy: Anatomy, unit: Unit, windows: Windows) -> int:
    if _decodes(anatomy, unit):
        return windows.tokens
    return windows.ids.numel() if windows.attention is None else int(windows.attention.sum())


# The stream -----------------------------------------------------------------------------------------------------------


@dataclass
class Pending:
    """Changes of blocks, until those of a whole unit are there."""

    units: Sequence[Unit]
    done: Callable[[int, Tensor, Tensor], None]
    """CheckResult the unit's place, the stream before its first block, and what its blocks add together."""
    known: dict[Block, Change] = field(default_factory=dict)

    def take(self, changes: dict[Block, Change]) -> None:
        """What the blocks of one layer do; layers come in the order of computation."""
        ready = [place for place, unit in enumerate(self.units) if not changes.keys().isdisjoint(unit)]
        self.known |= changes
        for place in ready:
            unit = self.units[place]
            if self.known.keys() >= set(unit):
                first_block = next(block for block in self.known if block in unit)
                added = [self.known[block][1] for block in unit]
                before = self.known[first_block][0]
                self.done(place, before, sum((each.to(before.device) for each in added[1:]), added[0]))
        self._forget()

    def _forget(self) -> None:
        """Let go of what no unit waits for."""
        waiting = [unit for unit in self.units if not self.known.keys() >= set(unit)]
        wanted = {block for unit in waiting for block in unit}
        self.known = {block: change for block, change in self.known.items() if block in wanted}


def _watch(hooks: ExitStack, anatomy: Anatomy, removed: Sequence[Block], count: int, take: Take) -> None:
    """Tell ``take`` after every top-level layer what each block in it did to the streams of ``count`` windows."""
    layers: dict[int, list[Block]] = {}
    for block in sorted(anatomy.branches.keys() - set(removed), key=lambda block: order(anatomy, block)):
        layers.setdefault(anatomy.branches[block].site.index, []).append(block)
    for index, (parent, name) in enumerate(anatomy.top_layers()):
        if index in layers:
            _watch_layer(hooks, anatomy, parent.get_submodule(name), layers[index], count, take)


def _watch_layer(
    hooks: ExitStack, anatomy: Anatomy, layer: nn.Module, blocks: Sequence[Block], count: int, take: Take
) -> None:
    before: dict[Block, Tensor] = {}
    told: dict[Block, Change] = {}

    def flat(states: Tensor) -> Tensor:
        return states.reshape(count, -1, states.shape[-1]).float()

    def enter(block: Block, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before.setdefault(block, flat(input_states(args, kwargs)))

    def observe(block: Block, stream: Tensor | None, output: Tensor) -> None:
        if stream is not None:
            told[block] = flat(stream), flat(output) - flat(stream)
        elif anatomy.parallel:
            told[block] = before[block], flat(output).clone()  # Falcon adds its attention to the MLP's output in place

    def leave(_: nn.Module, __: tuple[Any, ...], outputs: Any) -> None:
        ends = [*(before[block] for block in blocks[1:]), flat(first(outputs))]
        changes = {block: (before[block], end - before[block]) for block, end in zip(blocks, ends, strict=True)}
        take(changes | told)
        before.clear()

    for block in blocks:
        for module in _readers(anatomy, block):
            hooks.callback(module.register_forward_pre_hook(partial(enter, block), with_kwargs=True).remove)
    hooks.enter_context(observing(anatomy, blocks, observe))
    hooks.callback(layer.register_forward_hook(leave).remove)


def _readers(anatomy: Anatomy, block: Block) -> list[nn.Module]:
    """Modules of which the first that runs reads the stream before the block."""
    branch = anatomy.branches[block]
    paths = [*anatomy.shared[block.layer], *branch.names["norms"], branch.names["modules"][0]]
    return [branch.site.layer.get_submodule(path) for path in paths]
