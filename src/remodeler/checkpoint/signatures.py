"""What a layer is besides its weights' numbers: its modules, their shapes, and what was set in them."""

from typing import Any

from torch import nn

from remodeler.model.blocks import Anatomy, own_modules
from remodeler.runs.units import Block

Signature = dict[str, tuple[Any, ...]]
"""By the path of a module in its layer."""
PLAIN = (str, bool, int, float, type(None))
NUMBERS = ("layer_idx", "training")
"""What says which layer it is, or in which state."""


def signature(layer: nn.Module) -> Signature:
    """Modules of a layer, what was set in them, and the shapes of their parameters."""
    return {path: _told(module) for path, module in layer.named_modules()}


def _told(module: nn.Module) -> tuple[Any, ...]:
    own = {k: v for k, v in vars(module).items() if isinstance(v, PLAIN) and k not in NUMBERS and k[0] != "_"}
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters(recurse=False)}
    return type(module).__name__, tuple(sorted(own.items())), tuple(sorted(shapes.items()))


def wanted(anatomy: Anatomy, attention: int, mlp: int) -> Signature:
    """The signature of a layer that is put together from two: the MLP is the second's, all else the first's."""
    sites = {site.number: site.layer for site in anatomy.sites}
    found = signature(sites[attention])
    if attention == mlp:
        return found
    old, new = _of_mlp(anatomy, attention), _of_mlp(anatomy, mlp)
    kept = {path: told for path, told in found.items() if not _below(path, old)}
    return kept | {path: told for path, told in signature(sites[mlp]).items() if _below(path, new)}


def _of_mlp(anatomy: Anatomy, number: int) -> list[str]:
    branch = anatomy.branches.get(Block(number, "mlp"))
    return own_modules(branch) if branch else []


def _below(path: str, above: list[str]) -> bool:
    return any(path == each or path.startswith(f"{each}.") for each in above)
