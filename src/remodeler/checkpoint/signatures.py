"""Whether a config of fewer layers means those that are left: they are built without numbers, and compared."""

import copy
from collections.abc import Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig

from remodeler.checkpoint.configs import BUILD_ERRORS, cut_config, derived, per_layer, source_config, stock_on_meta
from remodeler.model.blocks import Anatomy, own_modules
from remodeler.model.families import config_names, unpacked_type
from remodeler.packed import text_of
from remodeler.packed_layers import NUMBERS, WithOrphans
from remodeler.runs.units import Block

Signature = dict[str, tuple[Any, ...]]
"""By the path of a module in its layer."""
PLAIN = (str, bool, int, float, type(None))
ORPHANS = ("pre", "post")
"""Layers without an attention, which lie in a packed one and are layers of their own."""
OTHER = (*NUMBERS, "training")
"""What says which layer it is, or in which state."""


def told_otherwise(anatomy: Anatomy, paired: Sequence[tuple[int, int]]) -> str | None:
    """Why a stock model of fewer layers is another than what is left, as the end of a sentence; None where it is not.

    Args:
        anatomy: the model.
        paired: for every layer that is left the source layers of its attention and of its MLP.
    """
    source = source_config(anatomy)
    lists, config = per_layer(source) | derived(source), copy.deepcopy(source)
    cut_config(config, paired)
    try:
        model = stock_on_meta(anatomy, config)
    except (*BUILD_ERRORS, IndexError) as error:
        return f"a config of the layers left is refused ({str(error).strip().splitlines()[-1].strip()})"
    for name, values in lists.items():
        if name not in vars(text_of(config)) and getattr(text_of(model.config), name) != [
            values[attention] for attention, _ in paired
        ]:
            return f"its {name} can't be said of the layers left"
    layers = model.get_submodule(anatomy.family.stacks[0].layers)
    narrow = bool((getattr(anatomy.model.config, "packing", None) or {}).get("shapes"))  # which is compared later
    wanted = [_joined(anatomy, *pair, whole=not narrow) for pair in paired]
    if wanted == [_signature(layer, not narrow) for layer in layers]:
        return None
    return "its layers are of several kinds, told apart by their number"


def lost_pattern(config: PreTrainedConfig) -> str:
    """A field with a value per layer other than what the class says by itself of so many layers; "" for none.

    As Gemma's ``layer_types`` after a layer went: readers that count layers compute something else then.
    """
    config = text_of(config)
    told = config.to_dict()
    for name, values in per_layer(config).items():
        try:
            plain = type(config).from_dict({key: value for key, value in told.items() if key != name})
        except (ValueError, TypeError, StrictDataclassError):  # it says nothing by itself
            return name
        if getattr(plain, name, None) not in (None, values):
            return name
    return ""


def rides_on_depth(anatomy: Anatomy) -> str | None:
    """Why no layer can take another's place, as the end of a sentence; None where one can."""
    config = text_of(anatomy.model.config)
    name = config_names(unpacked_type(config.model_type)).scaled_by_layer
    return f"its attentions are scaled by their layer's number ({name})" if getattr(config, name, False) else None


def _signature(layer: nn.Module, whole: bool) -> Signature:
    """Modules of a layer; with what was set in them and the shapes of their parameters, if ``whole``."""
    own = {path: module for path, module in layer.named_modules() if path.partition(".")[0] not in ORPHANS}
    return {path: _told(module) if whole else (_class(module),) for path, module in own.items()}


def _class(module: nn.Module) -> str:
    """The class of a module; of a layer that has orphans beside it the stock one."""
    found = type(module)
    return found.__mro__[2].__name__ if isinstance(module, WithOrphans) else found.__name__


def _told(module: nn.Module) -> tuple[Any, ...]:
    own = {k: v for k, v in vars(module).items() if isinstance(v, PLAIN) and k not in OTHER and k[0] != "_"}
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters(recurse=False)}
    return _class(module), tuple(sorted(own.items())), tuple(sorted(shapes.items()))


def _joined(anatomy: Anatomy, attention: int, mlp: int, whole: bool) -> Signature:
    """The signature of a layer that is put together from two: the MLP is the second's, all else the first's."""
    sites = {site.number: site.layer for site in anatomy.sites}
    found = _signature(sites[attention], whole)
    if attention == mlp:
        return found
    old, new = _of_mlp(anatomy, attention), _of_mlp(anatomy, mlp)
    kept = {path: told for path, told in found.items() if not _below(path, old)}
    return kept | {path: told for path, told in _signature(sites[mlp], whole).items() if _below(path, new)}


def _of_mlp(anatomy: Anatomy, number: int) -> list[str]:
    branch = anatomy.branches.get(Block(number, "mlp"))
    return own_modules(branch) if branch else []


def _below(path: str, above: list[str]) -> bool:
    return any(path == each or path.startswith(f"{each}.") for each in above)
