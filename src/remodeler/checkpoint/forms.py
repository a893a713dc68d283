"""The forms a pruned model can be written in, as a config and a renaming of tensors.

``stock``: the surviving blocks pair up into whole layers of an ordinary model. ``packed``: one layer per remaining
attention, see :mod:`remodeler.packed`. ``portable``: the output projections of removed blocks zeroed; loads
everywhere and gains nothing. All three compute the same function. Blocks of which some heads or channels go are sliced,
in the portable form zeroed; other tensors are neither changed nor copied until they are written.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from remodeler.checkpoint import stacks
from remodeler.checkpoint.config_widths import set_widths, shapes_left, widths_left
from remodeler.checkpoint.configs import (
    BUILD_ERRORS,
    Rows,
    build_on_meta,
    cut_config,
    derived,
    own_config,
    packed_config,
    packing,
    source_config,
    unkept,
)
from remodeler.checkpoint.signatures import rides_on_depth, told_otherwise
from remodeler.checkpoint.standard import standard_fields
from remodeler.checkpoint.surviving import Places, cuts, rename_tensors, slice_tensors, source_tensors
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, projection
from remodeler.model.pairing import pairs_of
from remodeler.model.structures import Widths, structure_of
from remodeler.packed import shallow, text_of
from remodeler.runs.units import KINDS, Block

Form = Literal["stock", "packed", "portable"]
FORMS: tuple[Form, ...] = ("stock", "packed", "portable")
OTHERS = ("shared", "extra")
"""Parts of a layer that are no block."""
WHOLE: Widths = MappingProxyType({})


@dataclass(frozen=True)
class Shape:
    """A pruned model before it is written."""

    form: Form
    config: PreTrainedConfig
    tensors: dict[str, Tensor]
    """By their names in the files; tied ones once."""


def choose(anatomy: Anatomy, removed: Iterable[Block], widths: Widths = WHOLE) -> Form:
    """The best form that can hold: stock, else packed, else portable."""
    gone = frozenset(removed)
    reasons: dict[Form, str] = {}
    for form in FORMS:
        reason = refusal(anatomy, gone, form, widths)
        if reason is None and not (form == "stock" and stacks.short_of_caches(anatomy, survivors(anatomy, gone))):
            return form
        reasons[form] = reason or "transformers would generate with caches for too few layers"
    raise InputError(
        "no form can hold this model: " + "; ".join(f"{form}, {reason}" for form, reason in reasons.items())
    )


def refusal(anatomy: Anatomy, removed: frozenset[Block], form: Form, widths: Widths = WHOLE) -> str | None:
    """Why a form can't hold the model without some blocks, and with some groups of others; None when it can."""
    if stays := next((block for block in sorted(removed) if block in anatomy.fixed), None):
        return f"{stays} can't go, {anatomy.fixed[stays]}"
    found = {"stock": _no_stock, "packed": _no_packed, "portable": _no_portable}[form](anatomy, removed)
    if found or form != "stock":
        return found
    return _no_stock_widths(anatomy, removed, remaining(anatomy, widths, removed))


def remaining(anatomy: Anatomy, widths: Widths, removed: Collection[Block]) -> Widths:
    """The widths of blocks that are neither removed nor left whole."""
    left = {block: groups for block, groups in sorted(widths.items()) if block not in removed}
    return {block: groups for block, groups in left.items() if len(groups) < structure_of(anatomy, block).groups}


def build(anatomy: Anatomy, removed: Iterable[Block], form: Form, widths: Widths = WHOLE) -> Shape:
    """Config and tensors of the model without some blocks, and with some groups of others.

    Raises:
        InputError: when the form can't hold it, with the reason.
    """
    gone = frozenset(removed)
    reason = refusal(anatomy, gone, form, widths)
    if reason:
        raise InputError(f"the {form} form can't hold this model: {reason}; choose another `form`")
    return {"stock": _stock, "packed": _packed_shape, "portable": _portable}[form](
        anatomy, gone, remaining(anatomy, widths, gone)
    )


# What survives --------------------------------------------------------------------------------------------------------


def survivors(anatomy: Anatomy, removed: frozenset[Block]) -> Rows:
    """Layers with something left, in order, and the kinds of blocks left in each."""
    rows = []
    for site in anatomy.sites:
        kinds = [b.kind for b in sorted(anatomy.branches) if b.layer == site.number and b not in removed]
        if kinds or anatomy.extras[site.number]:
            rows.append((site, sorted(kinds, key=KINDS.index)))
    return rows


def pairs(anatomy: Anatomy, removed: frozenset[Block]) -> list[tuple[int, int]] | None:
    """(attention's layer, MLP's layer) of every pair, when the survivors are whole pairs in order; else None."""
    rows = survivors(anatomy, removed)
    if all(kinds == anatomy.kinds(site.number) for site, kinds in rows):
        return [(site.number, site.number) for site, _ in rows]
    if not all(kinds for _, kinds in rows):  # a layer of which only other parts are left
        return None
    return pairs_of(Block(site.number, kind) for site, kinds in rows for kind in kinds)


def _no_stock(anatomy: Anatomy, removed: frozenset[Block]) -> str | None:
    if len(anatomy.family.stacks) > 1:
        return stacks.no_stock(anatomy, survivors(anatomy, removed))
    paired = pairs(anatomy, removed)
    if anatomy.family.traced and all(block in removed for block in anatomy.branches if block.kind == anatomy.needed):
        return "no attention is left"
    if not paired:
        return "the blocks left do not pair up into whole layers (`shape='standard'` makes the search keep them so)"
    split = [pair for pair in paired if pair[0] != pair[1]]
    if split and (anatomy.parallel or any(anatomy.shared[layer] for pair in split for layer in pair)):
        return "attention and MLP run in parallel, so only those of one layer pair up"
    if split and any(anatomy.extras[layer] for pair in split for layer in pair):
        return "its layers have parts besides attention and MLP, which can't be split"
    return rides_on_depth(anatomy) or told_otherwise(anatomy, paired)


def _no_stock_widths(anatomy: Anatomy, removed: frozenset[Block], widths: Widths) -> str | None:
    """Whether an ordinary config can say how wide the layers are: one is made, and its model built without numbers."""
    before = getattr(anatomy.model.config, "packing", None) or {}
    if not widths and not before.get("shapes") and len(anatomy.family.stacks) == 1:
        return None
    kinds = widths_left(anatomy, survivors(anatomy, removed), widths)
    if any(len(each) > 1 for each in kinds.values()):
        return "its layers keep different numbers of heads or channels (`uniform` keeps them alike)"
    try:
        shape = _stock(anatomy, removed, widths, "meta")
        wanted = {name: tensor.shape for name, tensor in build_on_meta(anatomy, shape.config).items()}
    except BUILD_ERRORS as error:
        return f"a config with as many heads and channels is refused ({str(error).strip().splitlines()[-1].strip()})"
    if wanted == {name: tensor.shape for name, tensor in shape.tensors.items()}:
        return None
    return f"no config of {shape.config.model_type} says as many heads or channels"


def _no_packed(anatomy: Anatomy, removed: frozenset[Block]) -> str | None:
    if len(anatomy.family.stacks) > 1:
        return stacks.no_packed(anatomy, survivors(anatomy, removed))
    if not any(anatomy.needed in kinds for _, kinds in survivors(anatomy, removed)):
        return "no attention is left to build layers from"
    if anatomy.family.unpackable:
        return anatomy.family.unpackable
    if anatomy.family.wrapper and (own := next(iter(derived(anatomy.model.config)), "")):
        return f"the config of its text part works out {own} for itself, from all layers"
    names = {str(sorted(branch.names.items(), key=str)) for branch in anatomy.branches.values()}
    if not anatomy.family.traced and len(names) > len({block.kind for block in anatomy.branches}):
        return "its layers are not put together alike"
    return rides_on_depth(anatomy)


def _no_portable(anatomy: Anatomy, removed: frozenset[Block]) -> str | None:
    if getattr(anatomy.model.config, "packing", None):
        return "the source is packed already"
    if removed and (anatomy.family.task == "masked" or any(anatomy.branches[block].post_norm for block in removed)):
        return "the norm lies behind the residual sum, so a zeroed projection is not a removed block"
    if hidden := next((block for block in sorted(removed) if not anatomy.branches[block].out), None):
        return f"the output projection of {hidden} is not plain to see"
    return None


# The three forms ------------------------------------------------------------------------------------------------------


def _stock(anatomy: Anatomy, removed: frozenset[Block], widths: Widths, device: str | None = None) -> Shape:
    rows = survivors(anatomy, removed)
    config, places = stacks.stock(anatomy, rows) if len(anatomy.family.stacks) > 1 else _paired(anatomy, removed)
    if widths or getattr(anatomy.model.config, "packing", {}).get("shapes"):
        set_widths(config, anatomy, rows, widths)
    tensors = rename_tensors(anatomy, removed, slice_tensors(anatomy, widths, device), places)
    return Shape("stock", config, dict(tensors))


def _paired(anatomy: Anatomy, removed: frozenset[Block]) -> tuple[PreTrainedConfig, Places]:
    paired = pairs(anatomy, removed) or []
    config = source_config(anatomy)
    cut_config(config, paired)
    path, places = anatomy.family.stacks[0].layers, Places()
    for index, (attention, mlp) in enumerate(paired):
        places |= {(attention, part): f"{path}.{index}" for part in (*KINDS, *OTHERS) if part != "mlp"}
        places[mlp, "mlp"] = f"{path}.{index}"
    return config, places


def _packed_shape(anatomy: Anatomy, removed: frozenset[Block], widths: Widths) -> Shape:
    rows = survivors(anatomy, removed)
    source = source_config(anatomy)
    config = packed_config(anatomy, source)
    config.packing = packing(anatomy, source, rows, shapes_left(anatomy, rows, widths))
    if len(anatomy.family.stacks) > 1:
        config.packing["stacks"] = stacks.stack_names(anatomy)
    shallow(config, config.packing)
    if lost := unkept(config):
        config.packing["whole"] = {name: text_of(source).to_dict()[name] for name in lost}
    if fields := standard_fields(anatomy, source, config, rows, widths):
        config.packing["standard"] = fields
    places = {(number, part): path for number, path in stacks.packed_paths(anatomy, rows) for part in (*KINDS, *OTHERS)}
    return Shape("packed", config, dict(rename_tensors(anatomy, removed, slice_tensors(anatomy, widths), places)))


def _portable(anatomy: Anatomy, removed: frozenset[Block], widths: Widths) -> Shape:
    tensors = dict(source_tensors(anatomy))
    names = {id(parameter): name for name, parameter in anatomy.model.named_parameters()}
    for block in removed:
        for parameter in projection(anatomy.branches[block]).values():
            tensors[names[id(parameter)]] = torch.zeros_like(parameter)
    for name, (cut, groups, kept) in cuts(anatomy, widths).items():
        tensors[name] = cut.zeroed(tensors[name], groups, kept)
    return Shape("portable", own_config(anatomy), tensors)
