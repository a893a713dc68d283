"""Structure: the coupled groups of a block, as its family's row and its parameters' shapes tell them.

A block's *groups* are what of it can go only together (LLM-Pruner, arXiv 2305.11627, section 3.1; also the units of
arXiv 2406.10576 and 2403.10799): a channel of an MLP is a row of every input projection and a column of the output
projection; a key-value head of an attention goes with the query heads that read it.

Deviation from the papers: key-value heads that several query heads share are pruned too, with all of these; where all
query heads share one key-value head, it stays, and they go one by one. Whether a model's own forward runs with fewer
groups is not known here: :mod:`remodeler.model.widths` tries it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, Branch
from remodeler.model.families import Stack
from remodeler.packed_layers import Counts
from remodeler.runs.units import Block

Widths = Mapping[Block, tuple[int, ...]]
"""By block the groups that stay, ascending; a block that is not named keeps all."""


@dataclass(frozen=True)
class Cut:
    """A parameter of which every group owns a share."""

    path: str
    """Of the parameter, inside the layer."""
    dim: int
    """The dimension that the groups lie along, as ``parts`` x groups x ``rows``."""
    parts: int
    """Several projections stacked in one parameter, as gate and up, or query, key and value."""
    rows: int
    """Of one group in one part."""

    def grouped(self, tensor: Tensor, groups: int) -> Tensor:
        """The parameter, or what has its shape, as a view [groups, ...]."""
        parted: Tensor = tensor.unflatten(self.dim, (self.parts, groups, self.rows))
        return parted.movedim(self.dim + 1, 0)

    def kept(self, tensor: Tensor, groups: int, kept: Sequence[int]) -> Tensor:
        """The parameter with some of its groups only, contiguous."""
        index = torch.tensor(kept, device=tensor.device)
        parted: Tensor = tensor.unflatten(self.dim, (self.parts, groups, self.rows))
        return parted.index_select(self.dim + 1, index).flatten(self.dim, self.dim + 2)

    def zeroed(self, tensor: Tensor, groups: int, kept: Sequence[int]) -> Tensor:
        """A copy of the parameter in which the other groups are zeros."""
        mask = torch.zeros(groups, dtype=torch.bool, device=tensor.device)
        mask[torch.tensor(kept, device=tensor.device)] = True
        copied = tensor.detach().clone()
        self.grouped(copied, groups)[~mask] = 0
        return copied

    def shape(self, tensor: Tensor, count: int) -> list[int]:
        """The parameter's shape with so many groups."""
        return [*tensor.shape[: self.dim], self.parts * count * self.rows, *tensor.shape[self.dim + 1 :]]


@dataclass(frozen=True)
class Structure:
    """The coupled groups of one block: what can only go together."""

    block: Block
    groups: int
    """Key-value heads of an attention, or its query heads where all share one; channels of an MLP."""
    columns: int
    """Input columns of the output projection a group: its query heads x their size; 1 for a channel."""
    parameters: int
    """Of one group: rows of the input projections with their biases, columns of the output projection."""
    out: str
    """Path of the output projection inside the layer."""
    cuts: tuple[Cut, ...]
    """Its parameters that are shared out among the groups."""

    @property
    def noun(self) -> str:
        """What a group is called."""
        return "heads" if self.block.kind == "attention" else "channels"

    @property
    def projections(self) -> int:
        """How many are cut: of an attention four, or two where one gives query, key and value or keys are shared."""
        return len({cut.path.rpartition(".")[0] for cut in self.cuts})

    def kept(self, layer: nn.Module, groups: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
        """(path inside the layer, values of some groups only) of the coupled parameters."""
        for cut in self.cuts:
            value = layer.get_parameter(cut.path).detach()
            yield cut.path, cut.kept(value, self.groups, groups)

    def shapes(self, layer: nn.Module, count: int) -> dict[str, list[int]]:
        """Shapes of the coupled parameters with so many groups, by path inside the layer."""
        return {cut.path: cut.shape(layer.get_parameter(cut.path), count) for cut in self.cuts}


def layout(anatomy: Anatomy, block: Block) -> Structure | str:
    """The groups of a block as its row and its shapes tell them, not tried yet; or why there are none."""
    branch = anatomy.branches[block]
    if block.kind == "cross":
        return "what a cross-attention reads is made by the encoder: only blocks of one stream are sliced"
    if block.kind == "mixer":
        return "the heads of a mixer share a state, which is not sliced here"
    if branch.names.get("beside"):
        return "it is computed by several modules side by side"
    return _heads(branch, block) if block.kind == "attention" else _channels(branch, block)


def structure_of(anatomy: Anatomy, block: Block) -> Structure:
    """The groups of a block that is to be sliced.

    Raises:
        InputError: when it has none, with the reason.
    """
    if block not in anatomy.branches:
        raise InputError(f"{block} is not a block of this model: name one that is")
    found = layout(anatomy, block)
    if isinstance(found, str):
        raise InputError(f"{block} can't be sliced: {found}; leave it whole")
    return found


def _channels(branch: Branch, block: Block) -> Structure | str:
    stack, modules = branch.site.stack, branch.names["modules"]
    ins = _linears(branch, modules[0], stack.mlp_in)
    outs = _linears(branch, "", branch.out)
    if not ins or len(outs) != 1:
        return "it has no plain input and output projections, as a mixture of experts has none"
    channels = _width(outs[0][1], "in")
    if channels < 2 or any(_width(module, "out") % channels for _, module in ins):
        return "its input projections do not give what its output projection takes"
    cuts = [cut for path, module in ins for cut in _rows(path, module, _width(module, "out") // channels, 1)]
    return _structure(branch, block, channels, outs[0], cuts)


def _heads(branch: Branch, block: Block) -> Structure | str:
    stack, path = branch.site.stack, branch.names["modules"][-1]
    ins = _linears(branch, path, stack.attention_in)
    outs = _linears(branch, "", branch.out)
    size = head_size(branch)
    if len(ins) not in (1, 3) or len(outs) != 1 or not size:
        return "its projections of query, key and value are not where its family has them"
    if len(ins) == 1:
        return _fused_heads(branch, block, ins[0], outs[0], size)
    groups = _width(ins[1][1], "out") // size
    if groups == 1:  # one key-value head for all, which stays
        groups, ins = _width(ins[0][1], "out") // size, ins[:1]
    if groups < 2:
        return "it has one head only"
    if any(_width(module, "out") % groups for _, module in ins) or _width(outs[0][1], "in") % groups:
        return "its projections do not divide into as many heads"
    cuts = [cut for place, module in ins for cut in _rows(place, module, 1, _width(module, "out") // groups)]
    return _structure(branch, block, groups, outs[0], cuts)


def _fused_heads(
    branch: Branch, block: Block, fused: tuple[str, nn.Module], out: tuple[str, nn.Module], size: int
) -> Structure | str:
    """Query, key and value in one projection: sliced where every head has its own three."""
    width = _width(out[1], "in")
    if width < 2 * size or width % size or _width(fused[1], "out") != 3 * width:
        return "query, key and value are one projection in which heads are shared"
    stacked = branch.site.stack.qkv == "stacked"
    cuts = _rows(*fused, 3, size) if stacked else _rows(*fused, 1, 3 * size)
    return _structure(branch, block, width // size, out, cuts)


def _structure(branch: Branch, block: Block, groups: int, out: tuple[str, nn.Module], cuts: Sequence[Cut]) -> Structure:
    columns = _width(out[1], "in") // groups
    every = (*cuts, Cut(f"{out[0]}.weight", 0 if isinstance(out[1], Conv1D) else 1, 1, columns))
    whole = sum(branch.site.layer.get_parameter(cut.path).numel() for cut in every)
    return Structure(block, groups, columns, whole // groups, out[0], every)


def _linears(branch: Branch, module: str, paths: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    """(path inside the layer, module) of those projections that exist and are plain."""
    places = dict(branch.site.layer.named_modules())
    joined = [".".join(part for part in (module, path) if part) for path in paths]
    return [(path, places[path]) for path in joined if isinstance(places.get(path), nn.Linear | Conv1D)]


def _width(linear: Any, side: str) -> int:
    """Features that go in or come out."""
    is_rows = (side == "out") != isinstance(linear, Conv1D)
    return int(linear.weight.shape[0 if is_rows else 1])


def _rows(path: str, linear: Any, parts: int, rows: int) -> list[Cut]:
    """What an input projection gives of its weight and its bias."""
    weight = Cut(f"{path}.weight", 1 if isinstance(linear, Conv1D) else 0, parts, rows)
    return [weight] if linear.bias is None else [weight, Cut(f"{path}.bias", 0, parts, rows)]


def head_size(branch: Branch) -> int:
    """Size of a head, as an attention says or the module inside it that attends; 0 where none says."""
    attention, names = branch.modules()[-1], branch.site.stack.head_size
    named = (getattr(module, name, None) for module in attention.modules() for name in names)
    return next((size for size in named if isinstance(size, int)), 0)


def counts_of(stack: Stack) -> Counts:
    """What modules of a stack call how many heads or channels they have, for :func:`remodeler.packed.narrow`."""
    return Counts(all=list(stack.counts), queries=list(stack.query_counts))
