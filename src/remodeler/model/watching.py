"""A layer under observation during one forward pass, with the graph that autograd keeps of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.errors import InputError
from remodeler.model.graphs import Node, node_of
from remodeler.model.layer_calls import Unit, mixes_tokens
from remodeler.model.residual import Found, Reading
from remodeler.packed_layers import first


@dataclass
class Watch:
    """One layer under observation: its graph is read when it returns, and let go.

    The layer is given random states, since those of tokens that were never trained may be no numbers.
    """

    layer: nn.Module
    start: Node | None = None
    units: list[Unit] = field(default_factory=list)
    found: Found | None = None
    runs: int = 0
    names: dict[int, str] = field(default_factory=dict)
    """By the id of a parameter."""
    foreign: list[nn.Parameter] = field(default_factory=list)
    """Parameters of other layers that its terms depend on, beside the stream."""
    frozen: list[nn.Parameter] = field(default_factory=list)

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Give the layer an input that its graph begins with."""
        self.units.clear()
        self.names = {id(value): name for name, value in self.layer.named_parameters()}
        self.frozen = [v for v in self.layer.parameters() if v.is_floating_point() and not v.requires_grad]
        for value in self.frozen:
            value.requires_grad_()
        hidden = _like(args[0] if args else kwargs["hidden_states"]).requires_grad_().clone()
        self.start = node_of(hidden)
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

    def note(self, path: str) -> Callable[..., None]:
        """A hook that keeps what a module was called with."""

        def hook(module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
            given = [*args, *kwargs.values()]
            taken = frozenset(node for value in given if (node := node_of(value)) is not None)
            mixes = mixes_tokens(given, first(outputs))  # seen now: the layer may write into the output
            returned = outputs if isinstance(outputs, tuple) else (outputs,)
            made = tuple(node for value in returned if (node := node_of(value)) is not None)
            self.units.append(Unit(path, module, args, kwargs, outputs, made, taken, mixes))

        return hook

    def after(self, _: nn.Module, __: Any, outputs: Any) -> Any:
        """Read the graph."""
        self.runs += 1
        if not isinstance(outputs, Tensor | tuple):
            raise InputError(f"a layer returns a {type(outputs).__name__}, not states: its blocks can't be told")
        reading = Reading(self.layer, self.start, self.units, self.names)
        self.found, self.foreign = reading.found(first(outputs)), reading.foreign()
        self.units.clear()
        for value in self.frozen:
            value.requires_grad_(False)
        return (outputs[0].detach(), *outputs[1:]) if isinstance(outputs, tuple) else outputs.detach()


def _like(states: Tensor) -> Tensor:
    """Random states, the same each time."""
    drawn = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(states.device, states.dtype)
