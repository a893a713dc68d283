"""List, bypass, replay and remove the residual blocks of a model.

A block is one residual branch, attention or MLP, with the norms that only it uses (BlockPruner, arXiv 2406.10594,
section 3.1: "minimal residual block"). Where they are is found in :mod:`remodeler.model.tracing`. Every change to a
model goes through :func:`swapped`, which always takes it back.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from remodeler.errors import InputError
from remodeler.model.families import Family, Stack
from remodeler.packed import BranchNames, NoOp, set_module
from remodeler.runs.units import Block, Kind


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

    def modules(self) -> list[nn.Module]:
        """What it runs, one after the other."""
        return [self.site.layer.get_submodule(path) for path in self.names["modules"]]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that go when the block is removed."""
        for path in [*self.names["modules"], *self.names["norms"]]:
            yield from self.site.layer.get_submodule(path).parameters()


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

    def blocks(self) -> list[Block]:
        """In the official code's order (all attention, then all MLP, ascending), which is how it breaks ties."""
        return sorted(self.branches, key=lambda block: (block.kind, block.layer))

    def top_layers(self) -> list[tuple[nn.Module, str]]:
        """The layer lists' entries as (list, name), in the order they are computed."""
        lists = [self.model.get_submodule(stack.layers) for stack in self.family.stacks]
        return [(layers, name) for layers in lists for name, _ in layers.named_children()]

    def parameters(self, removed: Iterable[Block] = ()) -> int:
        """Parameters left without some blocks; tied ones count once."""
        gone = {id(p) for p in self.removed_parameters(frozenset(removed))}
        return sum(p.numel() for p in self.model.parameters() if id(p) not in gone)

    def removed_parameters(self, removed: frozenset[Block]) -> Iterator[nn.Parameter]:
        """Parameters that go with some blocks: their own, and shared norms that nobody reads any more."""
        for block in removed:
            yield from self.branches[block].parameters()
        for site in self.sites:
            if all(block in removed for block in self.branches if block.layer == site.number):
                for path in self.shared[site.number]:
                    yield from site.layer.get_submodule(path).parameters()


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
            for path in [*names["norms"], *names["modules"][:-1]]:
                swaps.enter_context(swapped(layer, path, nn.Identity()))
            swaps.enter_context(swapped(layer, names["modules"][-1], NoOp(names["outputs"], names["stream"])))
        yield


class Replay(nn.Module):
    """Stands where a module was and hands back what it returned before."""

    def __init__(self, outputs: Any, like: nn.Module) -> None:
        super().__init__()
        self.outputs = outputs
        if hasattr(like, "attention_type"):
            self.attention_type = like.attention_type  # some trunks ask their layers which mask they want

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.outputs


def projection(module: nn.Module, stack: Stack, kind: Kind) -> dict[str, Tensor]:
    """Parameters of the output projection inside the last module of a block, by their names in it."""
    paths = {"attention": (stack.attention_out,), "cross": (stack.cross_out,), "mlp": stack.mlp_out}[kind]
    found: dict[str, Tensor] = {
        name: value
        for path in paths
        for name, value in module.named_parameters()
        if path == "" or name == path or name.startswith(path + ".")
    }
    if not found:
        raise InputError(
            f"the {kind} has no output projection at {paths}: the family named with `family` does not fit this model"
        )
    return found
