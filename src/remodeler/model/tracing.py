"""Where a model's blocks are: as its family's row names them, or found in what its layers add to the stream."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, LayerRef
from remodeler.model.families import Family, Stack
from remodeler.model.found_parts import found_parts, recorded_parts
from remodeler.model.layer_lists import completed
from remodeler.model.named_parts import named_parts
from remodeler.model.wrappers import carried_names, fed_behind, refuse_reached, text_alone


def trace(model: Any, family: Family, inputs: dict[str, Tensor]) -> Anatomy:
    """Find the blocks of a model from one forward pass over ``inputs``.

    Raises:
        InputError: where the family's row does not fit the model's layers, or its blocks can't be told.
    """
    family = completed(family, model)
    sites = _sites(model, family)
    packing = getattr(model.config, "packing", None)
    if packing is not None and (family.traced or family.task == "seq2seq"):
        found = recorded_parts(model, family, sites)
    elif not family.traced:
        found = named_parts(model, family, sites, inputs)
    elif family.wrapper:
        refuse_reached(model, family.stacks[0].layers)
        with text_alone(model):
            found = found_parts(model, family, sites, inputs)
    else:
        found = found_parts(model, family, sites, inputs)
    return _in_wrapper(found) if family.wrapper else found


def _in_wrapper(found: Anatomy) -> Anatomy:
    """With what the other parts of a model of text and images ask for."""
    model, layers = found.model, found.family.stacks[0].layers
    fed = fed_behind(model, layers, list(found.branches))
    return replace(found, fixed={**found.fixed, **fed}, carried=carried_names(model, layers))


def _sites(model: Any, family: Family) -> list[LayerRef]:
    sites: list[LayerRef] = []
    packing = getattr(model.config, "packing", None)
    numbers = iter([number for number, _ in packing["kept"]]) if packing else None
    for stack in family.stacks:
        for index, layer in enumerate(_layer_list(model, stack), start=sites[-1].index + 1 if sites else 0):
            for inner in [*getattr(layer, "pre", ()), layer, *getattr(layer, "post", ())]:
                sites.append(LayerRef(inner, next(numbers) if numbers else index, index, len(sites), stack))
    return sites


def _layer_list(model: Any, stack: Stack) -> nn.ModuleList:
    try:
        layers: nn.ModuleList = model.get_submodule(stack.layers)
    except AttributeError:
        raise InputError(
            f"the model has no layer list at {stack.layers!r}: the family named with `family` does not fit it"
        ) from None
    if not len(layers):
        raise InputError(f"the model has no layers in {stack.layers!r}, and none can go: give one that has some")
    return layers


def probe(row: Family, device: torch.device) -> dict[str, Tensor]:
    """A tiny input that shows how a model is put together."""
    ids = torch.arange(3, 9, device=device)[None]
    return same_inputs(row, ids)


def same_inputs(row: Family, ids: Tensor) -> dict[str, Tensor]:
    """Some tokens as a model's input; an encoder and its decoder read the same ones."""
    return {"input_ids": ids, "decoder_input_ids": ids} if row.task == "seq2seq" else {"input_ids": ids}
