"""First keep-probabilities: a score of every group from one forward pass over the text, mapped to probabilities.

``wanda`` is the score that "Optimization-based Structural Pruning ..." (arXiv 2406.10576) starts from (wanda-sp, after
arXiv 2306.11695): of an input column of the output projection, the mean of |W| over its rows times the Euclidean norm
of what that column is given; a group's is the sum over its columns. The maps to probabilities are the released code's.

Deviations: norms are those of the intact model (of what is left of it), in one pass. The released code feeds each layer
with the output of the pruned ones before it. Where the shift that makes the mean right is followed by a clamp, we look
for the shift whose clamped mean is right.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import sum_dtype, trunk_states
from remodeler.model.minibatches import agreed_batch_size, device_of, to_batch
from remodeler.model.structures import Structure
from remodeler.pruning.width.projection import bisect
from remodeler.runs import processes
from remodeler.runs.units import Block

Start = Literal["sigmap", "norm", "constant"]
"""z-score and sigmoid, shifted; between 0 and 1 by least and largest, shifted; the same for all."""


@torch.no_grad()
def wanda(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    structures: Mapping[Block, Structure],
    size: int | None = None,
) -> dict[Block, Tensor]:
    """Mean |W| times the norm of its input, summed over a group's columns: [groups] of every block, float64."""
    squares = input_squares(anatomy, windows, removed, structures, size)
    scores = {}
    for block, structure in structures.items():
        out = structure.cuts[-1]
        weight = anatomy.branches[block].site.layer.get_parameter(out.path)
        means = weight.abs().mean(1 - out.dim, dtype=torch.float32)
        columns = means.to(squares[block].device) * squares[block].sqrt()  # [inputs]
        scores[block] = columns.unflatten(0, (structure.groups, structure.columns)).sum(1)
    return scores


@torch.no_grad()
def input_squares(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    structures: Mapping[Block, Structure],
    size: int | None = None,
) -> dict[Block, Tensor]:
    """Sum over all tokens of the squared inputs of every output projection: [inputs] of every block."""
    device = device_of(anatomy.model)
    size = size or agreed_batch_size(anatomy, windows)
    starts = range(0, len(windows), size)
    with bypassed(anatomy, removed), _summing(anatomy, structures) as sums:
        for number in range(processes.rank(), len(starts), processes.world()):
            trunk_states(anatomy, to_batch(windows[starts[number] : starts[number] + size], device).inputs)
    if processes.world() > 1:
        for total in sums.values():
            distributed.all_reduce(total)
    return sums


@contextmanager
def _summing(anatomy: Anatomy, structures: Mapping[Block, Structure]) -> Iterator[dict[Block, Tensor]]:
    """Add up the squared inputs of every output projection while the model runs."""
    device = device_of(anatomy.model)
    sums = {
        block: torch.zeros(each.groups * each.columns, dtype=sum_dtype(device), device=device)
        for block, each in structures.items()
    }
    with ExitStack() as hooks:
        for block, structure in structures.items():
            module = anatomy.branches[block].site.layer.get_submodule(structure.out)
            hooks.callback(module.register_forward_pre_hook(_adding(sums[block])).remove)
        yield sums


def _adding(total: Tensor) -> Any:
    def add(_: nn.Module, args: tuple[Any, ...]) -> None:
        total.add_(args[0].float().square().flatten(0, -2).sum(0).to(total.device))

    return add


def to_probabilities(scores: Tensor, density: float, how: Start = "sigmap") -> Tensor:
    """Probabilities in the order of the scores, whose mean is the density: [n] to [n].

    Args:
        scores: higher = more likely to stay.
        density: the share that is kept, in (0, 1].
        how: the map.
    """
    if how == "constant":
        return torch.full_like(scores, density)
    if how == "norm":
        raw = (scores - scores.amin()) / (scores.amax() - scores.amin()).clamp(min=1e-30)
    else:
        raw = ((scores - scores.mean()) / scores.std(correction=0).clamp(min=1e-30)).sigmoid()
    one = torch.ones_like(raw[0])
    shift, _ = bisect(-one, one, lambda shift: ~((raw + shift).clamp(0, 1).mean() > density))
    return (raw + shift).clamp(0, 1)
