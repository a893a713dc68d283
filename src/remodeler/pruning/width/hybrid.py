"""Hybrid-grained importance of heads and channels: a fine and a coarse estimate, fused for each group.

After "Toward Adaptive Large Language Models Structured Pruning via Hybrid-grained Weight Importance Assessment"
(HyWIA; AAAI 2025, arXiv 2403.10799 v5). No code of it was found: **the formulas are a reconstruction**, from its
abstract and from LLM-Pruner (arXiv 2305.11627, section 3.2), whose Taylor expansion it takes. With the gradient g and
the diagonal H of the Fisher information, a weight w that goes changes the loss by about e = g w - H w^2 / 2, and

- fine, element-wise: F(G) = sum over the group of |e|;
- coarse, vector-wise: C(G) = |sum over the group of e|;
- both as z-scores over the groups, f and c; attention a = softmax(tau [f, c]) of each group;
- importance I(G) = a_1 f + a_2 c.

What is left is scored again after a part of the budget (``rounds``; 1 is what the paper seems to do): an estimate holds
near the model that it was made on. Both estimates are divided by the parameters of a group, so that heads and channels
can be ranked together.

Deviation: H is the mean of the squared gradients of single windows, times the number of tokens of a window where
``curvature="token"``: the windows' gradients are means over tokens, which makes their squares so many times smaller
than those of tokens, and the second order vanish in front of the first (``curvature="window"``, as the formula stands).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, distributed, nn

from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import batch_nll, sum_dtype
from remodeler.model.minibatches import device_of, to_batch
from remodeler.model.structures import Cut, Structure
from remodeler.runs import processes
from remodeler.runs.progress import Progress, silent
from remodeler.runs.units import Block

Fusion = Literal["adaptive", "fine", "coarse"]
Over = Literal["all", "kind", "layer"]


@dataclass(frozen=True)
class Hybrid:
    """How the estimates are made and fused."""

    fusion: Fusion = "adaptive"
    """``fine`` and ``coarse`` are the halves alone, for the comparison."""
    over: Over = "all"
    """Which groups the z-scores are taken over: all, those of a kind (heads, channels), those of a block."""
    sharpness: float = 1.0
    """tau of the attention: 0 is the mean of both, a large one the larger of both."""
    curvature: Literal["token", "window"] = "token"
    rounds: int = 4
    """Times that what is left is scored anew, an equal part of the budget after each."""
    batch: int = 1
    """Windows a backward pass. The Fisher information is of single ones; with more it comes out too small."""

    def __post_init__(self) -> None:
        known = {"fusion": Fusion, "over": Over, "curvature": Literal["token", "window"]}
        for name, values in known.items():
            if getattr(self, name) not in get_args(values):
                raise InputError(
                    f"{getattr(self, name)!r} is no {name} of hybrid-grained: choose one of {get_args(values)}"
                )
        if self.rounds < 1 or self.batch < 1:
            raise InputError(f"{self.rounds} rounds of batches of {self.batch} were asked for: give 1 or more of each")


@dataclass(frozen=True)
class Estimates:
    """What the loss changes by without each group, by two estimates: [groups] of every block."""

    fine: dict[Block, Tensor]
    coarse: dict[Block, Tensor]
    loss: float
    """Mean over the batches, of the model as it was scored."""


@dataclass(frozen=True)
class Sums:
    """Of one parameter, over the batches: its gradients and their squares, float32."""

    first: Tensor
    second: Tensor


def estimates(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    structures: Mapping[Block, Structure],
    hybrid: Hybrid,
    progress: Progress = silent,
) -> Estimates:
    """Fine and coarse estimates of every group, from one backward pass a batch.

    Needs 8 bytes for each prunable weight beside the model. The model is left as it was.
    """
    places = {(block, cut): _parameter(anatomy, block, cut) for block, each in structures.items() for cut in each.cuts}
    device = device_of(anatomy.model)
    starts = range(0, len(windows), hybrid.batch)
    mine = range(processes.rank(), len(starts), processes.world())
    total = torch.zeros((), dtype=sum_dtype(device), device=device)
    with torch.enable_grad(), bypassed(anatomy, removed), _collecting(anatomy, list(places.values())) as sums:
        for done, number in enumerate(mine, start=1):
            batch = to_batch(windows[starts[number] : starts[number] + hybrid.batch], device)
            loss = batch_nll(anatomy, batch) / len(batch.places)
            loss.backward()
            total += loss.detach()
            progress(done / len(mine), "")
    if processes.world() > 1:
        for tensor in [total, *(tensor for each in sums.values() for tensor in (each.first, each.second))]:
            distributed.all_reduce(tensor)
    scale = windows.tokens / len(starts) if hybrid.curvature == "token" else 1.0
    elements = {place: _elements(weight, sums[weight], len(starts), scale) for place, weight in places.items()}
    return Estimates(*_sum_by_group(structures, elements, device), (total / len(starts)).item())


def _parameter(anatomy: Anatomy, block: Block, cut: Cut) -> nn.Parameter:
    return anatomy.branches[block].site.layer.get_parameter(cut.path)


@contextmanager
def _collecting(anatomy: Anatomy, wanted: Sequence[nn.Parameter]) -> Iterator[dict[nn.Parameter, Sums]]:
    """Sum the gradients of some parameters and their squares, each as soon as it is there; then forget them."""
    needed = {parameter: parameter.requires_grad for parameter in anatomy.model.parameters()}
    held = {parameter: parameter.grad for parameter in needed}
    sums = {each: Sums(_zeros(each), _zeros(each)) for each in wanted}
    with ExitStack() as hooks:
        for parameter in needed:
            parameter.requires_grad_(parameter in sums)
            parameter.grad = None
        for parameter, each in sums.items():
            hooks.callback(parameter.register_post_accumulate_grad_hook(_adding(each)).remove)
        try:
            yield sums
        finally:
            for parameter, before in needed.items():
                parameter.requires_grad_(before)
                parameter.grad = held[parameter]


def _zeros(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)


def _adding(sums: Sums) -> Any:
    @torch.no_grad()
    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        slope = parameter.grad.float()
        sums.first.add_(slope)
        sums.second.addcmul_(slope, slope)
        parameter.grad = None

    return add


@torch.no_grad()
def _elements(weight: Tensor, sums: Sums, count: int, scale: float) -> Tensor:
    """What the loss falls by with each weight that goes, to second order: g w - H w^2 / 2, of the weight's shape."""
    value = weight.float()
    return sums.first / count * value - 0.5 * scale * sums.second / count * value.square()


def _sum_by_group(
    structures: Mapping[Block, Structure], elements: Mapping[tuple[Block, Cut], Tensor], device: torch.device
) -> tuple[dict[Block, Tensor], dict[Block, Tensor]]:
    """Element-wise and vector-wise sums over every group, for each of its parameters."""
    fine, coarse = {}, {}
    for block, structure in structures.items():
        parts = [cut.grouped(elements[block, cut], structure.groups).flatten(1) for cut in structure.cuts]
        sums = torch.stack([part.abs().sum(1) for part in parts]), torch.stack([part.sum(1) for part in parts])
        fine[block] = (sums[0].sum(0) / structure.parameters).to(device)
        coarse[block] = (sums[1].sum(0).abs() / structure.parameters).to(device)
    return fine, coarse


def fuse_estimates(found: Estimates, hybrid: Hybrid) -> dict[Block, Tensor]:
    """The importance of every group, comparable a parameter: [groups] of every block."""
    if hybrid.fusion != "adaptive":
        return dict(found.fine if hybrid.fusion == "fine" else found.coarse)
    scores: dict[Block, Tensor] = {}
    for blocks in _together(list(found.fine), hybrid.over):
        every = torch.stack([_row(found.fine, blocks), _row(found.coarse, blocks)])  # [2, groups of all]
        both = _standard(every, every[0] > 0)
        attention = (hybrid.sharpness * both).softmax(0)
        parts = (attention * both).sum(0).split([len(found.fine[block]) for block in blocks])
        scores |= zip(blocks, parts, strict=True)
    return scores


def _together(blocks: Sequence[Block], over: Over) -> list[list[Block]]:
    """The blocks, parted into those whose groups share a mean and a variance."""
    keys = {block: {"all": "", "kind": block.kind, "layer": str(block)}[over] for block in blocks}
    return [[block for block in blocks if keys[block] == key] for key in dict.fromkeys(keys.values())]


def _row(values: Mapping[Block, Tensor], blocks: Sequence[Block]) -> Tensor:
    return torch.cat([values[block].double() for block in blocks])


def _standard(values: Tensor, alive: Tensor) -> Tensor:
    """Zero mean and unit variance along the last dimension, over the groups that are not gone already."""
    known = values[..., alive] if alive.any() else values
    mean, spread = known.mean(-1, keepdim=True), known.std(-1, correction=0, keepdim=True)
    return (values - mean) / spread.clamp(min=1e-300)
