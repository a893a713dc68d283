"""The forms a pruned model can be written in, as a config and a renaming of tensors.

``stock``: the surviving blocks pair up into whole layers of an ordinary model. ``packed``: one layer per remaining
attention, see :mod:`remodeler.packed`. ``portable``: the output projections of removed blocks zeroed; loads
everywhere and gains nothing. All three compute the same function. Blocks of which some heads or channels go are sliced,
in the portable form zeroed; other tensors are neither changed nor copied until they are written.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from remodeler.checkpoint.configs import (
    BUILD_ERRORS,
    Rows,
    build_on_meta,
    cut_config,
    own_config,
    packed_config,
    packing,
    set_widths,
    shapes_left,
    source_config,
    unkept,
    widths_left,
)
from remodeler.checkpoint.signatures import told_otherwise
from remodeler.checkpoint.standard import standard_fields
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, LayerRef, own_modules, projection
from remodeler.model.families import config_names, unpacked_type
from remodeler.model.pairing import packed_places, pairs_of
from remodeler.model.structures import Cut, Widths, structure_of
from remodeler.packed import shallow
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
        if reason is None:
            return form
        reasons[form] = reason
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


def _rides_on_depth(anatomy: Anatomy) -> str | None:
    config = anatomy.model.config
    name = config_names(unpacked_type(config.model_type)).scaled_by_layer
    return f"its attentions are scaled by their layer's number ({name})" if getattr(config, name, False) else None


def _no_stock(anatomy: Anatomy, removed: frozenset[Block]) -> str | None:
    if anatomy.family.task == "seq2seq":
        return "encoder-decoder models are written as portable only"
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
    return _rides_on_depth(anatomy) or told_otherwise(anatomy, paired)


def _no_stock_widths(anatomy: Anatomy, removed: frozenset[Block], widths: Widths) -> str | None:
    """Whether an ordinary config can say how wide the layers are: one is made, and its model built without numbers."""
    before = getattr(anatomy.model.config, "packing", None) or {}
    if not widths and not before.get("shapes"):
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
    if anatomy.family.task == "seq2seq":
        return "encoder-decoder models are written as portable only"
    if not any(anatomy.needed in kinds for _, kinds in survivors(anatomy, removed)):
        return "no attention is left to build layers from"
    if anatomy.family.unpackable:
        return anatomy.family.unpackable
    names = {str(sorted(branch.names.items(), key=str)) for branch in anatomy.branches.values()}
    if not anatomy.family.traced and len(names) > len({block.kind for block in anatomy.branches}):
        return "its layers are not put together alike"
    return _rides_on_depth(anatomy)


def _no_portable(anatomy: Anatomy, removed: frozenset[Block]) -> str | None:
    if getattr(anatomy.model.config, "packing", None):
        return "the source is packed already"
    if anatomy.family.task == "masked" and removed:
        return "the norm lies behind the residual sum, so a zeroed projection is not a removed block"
    if hidden := next((block for block in sorted(removed) if not anatomy.branches[block].out), None):
        return f"the output projection of {hidden} is not plain to see"
    return None


# The three forms ------------------------------------------------------------------------------------------------------


def _stock(anatomy: Anatomy, removed: frozenset[Block], widths: Widths, device: str | None = None) -> Shape:
    paired = pairs(anatomy, removed) or []
    config = source_config(anatomy)
    cut_config(config, paired)
    if widths or getattr(anatomy.model.config, "packing", {}).get("shapes"):
        set_widths(config, anatomy, survivors(anatomy, removed), widths)
    path = anatomy.family.stacks[0].layers
    places: dict[tuple[int, str], str] = {}
    for index, (attention, mlp) in enumerate(paired):
        places |= {(attention, part): f"{path}.{index}" for part in (*KINDS, *OTHERS) if part != "mlp"}
        places[mlp, "mlp"] = f"{path}.{index}"
    return Shape(
        "stock", config, dict(_rename_tensors(anatomy, removed, _slice_tensors(anatomy, widths, device), places))
    )


def _packed_shape(anatomy: Anatomy, removed: frozenset[Block], widths: Widths) -> Shape:
    rows = survivors(anatomy, removed)
    source = source_config(anatomy)
    config = packed_config(anatomy, source)
    config.packing = packing(anatomy, source, rows, shapes_left(anatomy, rows, widths))
    shallow(config)
    if lost := unkept(config):
        config.packing["whole"] = {name: source.to_dict()[name] for name in lost}
    if fields := standard_fields(anatomy, source, config, rows, widths):
        config.packing["standard"] = fields
    path, places = anatomy.family.stacks[0].layers, dict[tuple[int, str], str]()
    for number, place in packed_places([(site.number, kinds) for site, kinds in rows]).items():
        places |= {(number, part): f"{path}.{place}" for part in (*KINDS, *OTHERS)}
    return Shape("packed", config, dict(_rename_tensors(anatomy, removed, _slice_tensors(anatomy, widths), places)))


def _portable(anatomy: Anatomy, removed: frozenset[Block], widths: Widths) -> Shape:
    tensors = dict(_source_tensors(anatomy))
    names = {id(parameter): name for name, parameter in anatomy.model.named_parameters()}
    for block in removed:
        for parameter in projection(anatomy.branches[block]).values():
            tensors[names[id(parameter)]] = torch.zeros_like(parameter)
    for name, (cut, groups, kept) in _cuts(anatomy, widths).items():
        tensors[name] = cut.zeroed(tensors[name], groups, kept)
    return Shape("portable", own_config(anatomy), tensors)


# Tensors --------------------------------------------------------------------------------------------------------------


def _source_tensors(anatomy: Anatomy) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the model by name, without those tied to another."""
    tied = set(getattr(anatomy.model, "all_tied_weights_keys", None) or ())
    for name, tensor in anatomy.model.state_dict().items():
        if name not in tied:
            yield name, tensor


def _cuts(anatomy: Anatomy, widths: Widths) -> dict[str, tuple[Cut, int, tuple[int, ...]]]:
    """By tensor: how the groups lie in it, how many there are, and those that stay."""
    paths = {id(module): name for name, module in anatomy.model.named_modules(remove_duplicate=False)}
    found: dict[str, tuple[Cut, int, tuple[int, ...]]] = {}
    for block, kept in widths.items():
        structure = structure_of(anatomy, block)
        layer = paths[id(anatomy.branches[block].site.layer)]
        found |= {f"{layer}.{cut.path}": (cut, structure.groups, kept) for cut in structure.cuts}
    return found


def _slice_tensors(anatomy: Anatomy, widths: Widths, device: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the model by name, of some groups only; on the ``meta`` device nothing is read or copied."""
    cuts = _cuts(anatomy, widths)
    for name, tensor in _source_tensors(anatomy):
        given = tensor if device is None else tensor.to(device)
        if name in cuts:
            cut, groups, kept = cuts[name]
            given = cut.kept(given, groups, kept)
        yield name, given


def _rename_tensors(
    anatomy: Anatomy,
    removed: frozenset[Block],
    tensors: Iterable[tuple[str, Tensor]],
    places: dict[tuple[int, str], str],
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of what survives, by their new names. ``places``: new path of a (source layer, part)."""
    paths = {id(module): name for name, module in anatomy.model.named_modules(remove_duplicate=False)}
    sites = {paths[id(site.layer)]: site for site in anatomy.sites}
    gone: set[tuple[int, str]] = {(block.layer, block.kind) for block in removed}
    for name, tensor in tensors:
        prefix = max((path for path in sites if name.startswith(path + ".")), key=len, default=None)
        if prefix is None:
            yield name, tensor
            continue
        site, local = sites[prefix], name[len(prefix) + 1 :]
        part = (site.number, _part(anatomy, site, local))
        if part in places and part not in gone:
            yield f"{places[part]}.{local}", tensor


def _part(anatomy: Anatomy, site: LayerRef, local: str) -> str:
    """Which part of a layer a tensor belongs to: a kind of block, ``shared`` or ``extra``."""
    for kind in KINDS:
        branch = anatomy.branches.get(Block(site.number, kind))
        if branch and any(local.startswith(path + ".") for path in own_modules(branch)):
            return kind
    return "shared" if any(local.startswith(path + ".") for path in anatomy.shared[site.number]) else "extra"
