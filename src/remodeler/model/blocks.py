"""List, bypass, replay and remove the residual blocks of a model.

A block is one residual branch, attention or MLP, with the norms that only it uses (BlockPruner, arXiv 2406.10594,
section 3.1: "minimal residual block"). Where they are is found in :mod:`remodeler.model.tracing`. Every change to a
model goes through :func:`swapped`, which always takes it back.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from remodeler.errors import InputError
from remodeler.model.families import Family, Stack
from remodeler.packed_layers import BranchNames, NoOp, identity, set_module
from remodeler.runs.units import KINDS, Block, Kind

NO_OPS = (NoOp.__name__, "Nothing")
"""Names of what stands for a removed block: packed folders bring a class of their own, an older one as "Nothing"."""


@dataclass(frozen=True)
class LayerRef:
    """One layer of a live model."""

    layer: nn.Module
    number: int
    """In the source model."""
    index: int
    """Place of the top-level layer that computes it (orphans of a packed layer share their host's)."""
    position: int
    """Place in the order of computation."""
    stack: Stack


@dataclass(frozen=True)
class Branch:
    """A block inside a live model."""

    site: LayerRef
    names: BranchNames
    out: tuple[str, ...]
    """Its output projections, modules or parameters, by their paths in the layer; none where they are not plain."""
    post_norm: bool = False
    """Whether a norm that goes with it lies on the stream: zeros in its output projection leave that there."""

    def modules(self) -> list[nn.Module]:
        """What it runs, one after the other."""
        return [self.site.layer.get_submodule(path) for path in self.names["modules"]]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that go when the block is removed."""
        for path in own_modules(self):
            yield from self.site.layer.get_submodule(path).parameters()


def own_modules(branch: Branch) -> list[str]:
    """Paths in its layer of the modules that go when a block is removed."""
    return [*branch.names["modules"], *branch.names.get("beside", ()), *branch.names["norms"]]


@dataclass(frozen=True)
class Anatomy:
    """A model, and where its blocks are."""

    model: Any
    """A transformers model; ``Any``, because their types say nothing of a family's config, parts and outputs."""
    family: Family
    branches: dict[Block, Branch]
    sites: tuple[LayerRef, ...]
    shared: dict[int, tuple[str, ...]]
    """By layer number: norms that serve several blocks, removed only with the last of them."""
    extras: dict[int, tuple[str, ...]]
    """By layer number: other modules with parameters; they stay."""
    parallel: bool
    """Attention and MLP of a layer read the same input."""
    fixed: Mapping[Block, str] = field(default_factory=dict)
    """Blocks that can't be removed, and why."""
    carried: frozenset[str] = frozenset()
    """Tensors beside the text part of a model of text and images, which are carried along as they are."""

    def blocks(self) -> list[Block]:
        """What may go, in the official code's order (all attention, then all MLP, ascending): so it breaks ties."""
        return sorted(self.branches.keys() - self.fixed, key=lambda block: (block.kind, block.layer))

    def kinds(self, number: int) -> list[Kind]:
        """The kinds of blocks that a layer has, in the order in which they are computed."""
        return [kind for kind in KINDS if Block(number, kind) in self.branches]

    @property
    def needed(self) -> Kind:
        """The kind of which one must stay: an attention tells how long the cache is; in models without, a mixer."""
        return "attention" if any(block.kind == "attention" for block in self.branches) else "mixer"

    def keeps_needed(self, gone: Iterable[Block]) -> bool:
        """Whether every list of layers keeps a block of that kind without some others."""
        left = self.branches.keys() - set(gone)
        kept = {id(self.branches[block].site.stack) for block in left if block.kind == self.needed}
        return all(id(stack) in kept for stack in self.family.stacks)

    def top_layers(self) -> list[tuple[nn.Module, str]]:
        """The layer lists' entries as (list, name), in the order they are computed."""
        lists = [self.model.get_submodule(stack.layers) for stack in self.family.stacks]
        return [(layers, name) for layers in lists for name, _ in layers.named_children()]

    def parameters(self, removed: Iterable[Block] = ()) -> int:
        """Parameters left without some blocks; tied ones count once."""
        gone = {id(p) for p in self.removed_parameters(frozenset(removed))}
        return sum(p.numel() for p in self.model.parameters() if id(p) not in gone)

    def carried_parameters(self) -> int:
        """Parameters beside the text part; 0 of a language model."""
        named = self.model.named_parameters() if self.carried else ()
        return sum(parameter.numel() for name, parameter in named if name in self.carried)

    def removed_parameters(self, removed: frozenset[Block]) -> Iterator[nn.Parameter]:
        """Parameters that go with some blocks: their own, and shared norms that nobody reads any more."""
        for block in removed:
            yield from self.branches[block].parameters()
        for site in self.sites:
            if all(block in removed for block in self.branches if block.layer == site.number):
                for path in self.shared[site.number]:
                    yield from site.layer.get_submodule(path).parameters()


def first_attentions(family: Family, sites: Sequence[LayerRef]) -> dict[Block, str]:
    """The first attention of each stack, and why it can't be removed, where that is so."""
    firsts = {id(site.stack): site.number for site in reversed(sites)}
    return {Block(n, "attention"): why for n in firsts.values() if (why := family.fixed_first_attention)}


@contextmanager
def swapped(parent: nn.Module, path: str, module: nn.Module) -> Iterator[None]:
    """Put a module in; whatever happens, put the old one back."""
    old = parent.get_submodule(path)
    set_module(parent, path, module)
    try:
        yield
    finally:
        set_module(parent, path, old)


@contextmanager
def bypassed(anatomy: Anatomy, removed: Iterable[Block]) -> Iterator[None]:
    """The model without some blocks: their branches contribute nothing to the residual stream, and are not computed."""
    with ExitStack() as swaps:
        for block in removed:
            branch = anatomy.branches[block]
            names, layer = branch.names, branch.site.layer
            for path in names["norms"]:
                swaps.enter_context(swapped(layer, path, identity(layer.get_submodule(path))))
            for path in names["modules"][:-1]:
                swaps.enter_context(swapped(layer, path, NoOp(None, 0)))
            swaps.enter_context(swapped(layer, names["modules"][-1], NoOp(names["outputs"], names["stream"])))
            for path, outputs in names.get("beside", {}).items():
                swaps.enter_context(swapped(layer, path, NoOp(outputs, None)))
        yield


class StandIn(nn.Module):
    """Stands where a module was; what else is asked of it, as the mask that a layer wants, that module answers."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        vars(self)["like"] = like  # not as a part: it has parameters

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["like"], name)


class Replay(StandIn):
    """Hands back what a module returned before."""

    def __init__(self, outputs: Any, like: nn.Module) -> None:
        super().__init__(like)
        self.outputs = outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.outputs


def projection(branch: Branch) -> dict[str, Tensor]:
    """Parameters of a block's output projection, by their names in its layer.

    Raises:
        InputError: when it has none.
    """
    found: dict[str, Tensor] = {
        name: value
        for name, value in branch.site.layer.named_parameters()
        if any(name == path or name.startswith(f"{path}.") for path in branch.out)
    }
    if not found:
        raise InputError(
            f"{branch.names['modules'][-1]} has no output projection at {branch.out}: the family named with `family` "
            "does not fit this model"
        )
    return found


def handed_back(outputs: Any, kwargs: Mapping[str, Any]) -> list[str | None] | None:
    """What a module returns beside its states: by place the argument that it hands back as it is, as T5's bias."""
    if not isinstance(outputs, tuple):
        return None
    return [None, *(_keyword(value, kwargs) for value in outputs[1:])]


def _keyword(value: Any, kwargs: Mapping[str, Any]) -> str | None:
    return next((name for name, given in kwargs.items() if given is value and isinstance(value, Tensor)), None)
