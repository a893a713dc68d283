"""What the modules of a layer were called with, and what they are by that."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.model.graphs import Node
from remodeler.packed_layers import first


@dataclass(frozen=True, eq=False)
class Unit:
    """A module of a layer, and what it was called with."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any
    made: tuple[Node, ...]
    """Where its outputs begin in the graph."""
    taken: frozenset[Node]
    """Where its inputs begin."""
    mixes: bool
    """Whether a token's output depends on the token before it."""

    @property
    def is_norm(self) -> bool:
        """Whether it scales channels, which takes no matrix."""
        return all(value.dim() < 2 for value in self.module.parameters())


def units_in(layer: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules of a layer that have parameters, those of its lists one by one."""
    for name, child in layer.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from units_in(child, f"{prefix}{name}.")
        elif next(child.parameters(), None) is not None:
            yield f"{prefix}{name}", child


def size_of(unit: Unit) -> int:
    """Parameters of a module."""
    return sum(value.numel() for value in unit.module.parameters())


def hands_on(unit: Unit) -> bool:
    """Whether a module takes states and returns some, so that a branch without it runs through."""
    return bool(unit.args) and isinstance(unit.args[0], Tensor) and isinstance(unit.outputs, Tensor)


def keeps_shape(unit: Unit) -> bool:
    """Whether a module returns states like those that it takes, or zeros if need be."""
    given = unit.args[0] if unit.args else unit.kwargs.get("hidden_states")
    made = first(unit.outputs)
    return isinstance(given, Tensor) and isinstance(made, Tensor) and given.shape == made.shape


def mixes_tokens(given: list[Any], made: Any) -> bool:
    """Whether the last token's output depends on the token before it."""
    states = next((v for v in given if isinstance(v, Tensor) and v.dim() == 3 and v.grad_fn is not None), None)
    if states is None or not isinstance(made, Tensor) or made.dim() < 3 or made.grad_fn is None:
        return False
    slopes = torch.zeros_like(made)
    slopes[:, -1] = torch.nan  # which goes through weights that are zeros too
    (slope,) = torch.autograd.grad(made, states, slopes, retain_graph=True, allow_unused=True)
    return slope is not None and bool(slope[:, -2].isnan().any())
