"""A model over several devices, of which some layers lie in the memory of the host or on the disk.

accelerate's hooks move what a module is given to where it is, and fetch the weights of an offloaded module for each of
its calls. Here an offloaded layer is fetched as a whole, for the time that it runs or that somebody holds it: what
reads a streamed model layer by layer (:mod:`remodeler.model.streaming`) reads this one the same way, many mini-batches
for one fetching, and whoever looks at the weights of a layer that is held finds numbers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from remodeler.errors import option
from remodeler.model.families import Family
from remodeler.model.layer_lists import completed
from remodeler.model.placeholders import Place, empty_parameters, let_go
from remodeler.model.streaming import hold_on_call, layer_of


@dataclass(frozen=True)
class Offloaded:
    """The layers of a dispatched model, and which of those that are offloaded are held."""

    model: Any = field(repr=False)
    paths: tuple[str, ...]
    """Of the top-level layers, in the order they are computed."""
    memory: int | None = None
    """Bytes of states that a pass may keep; None: a part of what is free."""
    holders: Counter[int] = field(default_factory=Counter)
    """By layer: how many want its weights where it runs."""
    empty: dict[int, list[Place]] = field(default_factory=dict)
    """By layer that is held: the meta parameters that stand there otherwise."""
    state: str = "offloaded"
    remedy: str = f"allow a device more of them ({option('max_memory')}), or take one with more memory"

    def acquire(self, index: int) -> None:
        """Fetch a layer, unless somebody holds it already."""
        self.holders[index] += 1
        if self.holders[index] == 1:
            found = empty_parameters(self.model.get_submodule(self.paths[index]))
            self.empty[index] = [place for place in found if _hook_of(place[0]) is not None]
            for module, name, parameter in self.empty[index]:
                setattr(module, name, _fetched(_hook_of(module), name, parameter))

    def release(self, index: int) -> None:
        """Let a layer go, if nobody else holds it."""
        let_go(self.holders, self.empty, index)

    def layer_of(self, name: str) -> int | None:
        """Which layer a tensor of the model is in, if any."""
        return layer_of(self.paths, name)


def hold_whole_layers(model: Any, row: Family) -> None:
    """Fetch offloaded layers as a whole from now on; a model without any is left as it is.

    Args:
        model: dispatched by accelerate.
        row: where its family keeps the layer lists.
    """
    paths = layer_paths(model, row)
    if not any(True for path in paths for _ in _offloading(model.get_submodule(path))):
        return
    weights = Offloaded(model, paths)
    for index, path in enumerate(paths):
        layer = model.get_submodule(path)
        for _, hook in _offloading(layer):
            hook.offload = False  # its module is not fetched for its own call, but with the layer
        hold_on_call(weights, index, layer)
    model.streamed_weights = weights


def layer_paths(model: Any, row: Family) -> tuple[str, ...]:
    """Paths of the top-level layers, in the order they are computed."""
    lists = [stack.layers for stack in completed(row, model).stacks]
    return tuple(f"{path}.{name}" for path in lists for name, _ in model.get_submodule(path).named_children())


def _fetched(hook: Any, name: str, parameter: nn.Parameter) -> nn.Parameter:
    """A parameter with its numbers, where its module runs."""
    value = hook.weights_map[name].to(torch.device(hook.execution_device), parameter.dtype, non_blocking=True)
    return nn.Parameter(value, requires_grad=parameter.requires_grad)


def _offloading(layer: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    for module in layer.modules():
        if (hook := _hook_of(module)) is not None and hook.offload:
            yield module, hook


def _hook_of(module: nn.Module) -> Any:
    """The hook of accelerate's that knows where a module's weights are; None for a module that is not offloaded."""
    own = vars(module).get("_hf_hook")  # not by attribute: what stands in for a module answers for it
    every: Iterable[Any] = getattr(own, "hooks", (own,))
    return next((hook for hook in every if getattr(hook, "weights_map", None) is not None), None)
