"""What stands where the weights of a layer are that is not held: parameters on the meta device."""

from collections import Counter

from torch import nn

Place = tuple[nn.Module, str, nn.Parameter]
"""A module, the name of a parameter of its own, and what stands there."""


def let_go(holders: Counter[int], empty: dict[int, list[Place]], index: int) -> None:
    """One holder of a layer less; behind the last one its meta parameters stand there again."""
    holders[index] -= 1
    if not holders[index]:
        for module, name, parameter in empty.pop(index, ()):
            setattr(module, name, parameter)


def empty_parameters(layer: nn.Module) -> list[Place]:
    """The parameters of a layer that hold no numbers, each with its module and its name there."""
    return [
        (module, name, value)
        for module in layer.modules()
        for name, value in module.named_parameters(recurse=False)
        if value.is_meta
    ]
