"""Where a decoder keeps its layers, for families whose parts are found by tracing."""

from dataclasses import replace
from typing import Any

from torch import nn

from remodeler.errors import InputError
from remodeler.model.families import Family, config_names, unpacked_type
from remodeler.model.wrappers import row_of_text, trunk_of


def completed(family: Family, model: Any) -> Family:
    """A family with its layer list, which is looked for where no row names it.

    Raises:
        InputError: when a model has no list of as many layers as its config says.
    """
    if family.stacks[0].layers:
        return family
    path = (getattr(model.config, "packing", None) or {}).get("layers") or _layer_list(model)
    trunk = path.rpartition(".")[0]
    if family.wrapper:
        family, trunk = replace(row_of_text(family, model.config), wrapper=True), trunk_of(model, path)
    return replace(family, stacks=(replace(family.stacks[0], layers=path),), trunk=trunk)


def _layer_list(model: Any) -> str:
    """The list with as many entries as the config has layers; of several the one nearest to the top."""
    config = model.config.get_text_config(decoder=True)
    names = ("decoder_layers", "num_decoder_layers", *config_names(unpacked_type(config.model_type)).depth)
    depth = next((int(value) for name in names if (value := getattr(config, name, None))), 0)
    lists = {name: each for name, each in model.named_modules() if isinstance(each, nn.ModuleList)}
    fitting = [name for name, each in lists.items() if len(each) == depth and not _inside(name, lists)]
    if not fitting:
        sizes = ", ".join(f"{name} of {len(each)}" for name, each in lists.items() if not _inside(name, lists))
        raise InputError(
            f"no list of {depth} layers was found in {type(model).__name__} (lists: {sizes or 'none'}): its blocks "
            "can't be told, choose a model whose layers are one list"
        )
    path: str = min(fitting, key=lambda name: (_is_tower(name), name.count(".")))
    return path


def _inside(name: str, lists: dict[str, nn.ModuleList]) -> bool:
    return any(name.startswith(f"{other}.") for other in lists)


def _is_tower(name: str) -> bool:
    """Whether a list is that of an encoder of images or sounds."""
    return any(word in name for word in ("vision", "visual", "image", "audio", "encoder.layers"))
