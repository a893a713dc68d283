"""The forms a pruned model can be written in, as a config and a renaming of tensors.

``stock``: the surviving blocks pair up into whole layers of an ordinary model. ``packed``: one layer per remaining
attention, see :mod:`remodeler.packed`. ``portable``: the output projections of removed blocks zeroed; loads
everywhere and gains nothing. All three compute the same function. No tensor is changed except for those zeros, and
none is copied until it is written.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from remodeler.blocks import KINDS, Anatomy, Block, Kind, Site, projection
from remodeler.errors import InputError
from remodeler.families import FAMILIES
from remodeler.packed import BranchNames, Packing, packed_class, shallow

Form = Literal["stock", "packed", "portable"]
FORMS: tuple[Form, ...] = ("stock", "packed", "portable")


@dataclass(frozen=True)
class Shape:
    """A pruned model before it is written."""

    form: Form
    config: PreTrainedConfig
    tensors: dict[str, Tensor]
    """By their names in the files; tied ones once."""


def choose(anatomy: Anatomy, removed: Iterable[Block]) -> Form:
    """The best form that can hold: stock, else packed, else portable."""
    gone = frozenset(removed)
    reasons = {form: refusal(anatomy, gone, form) for form in FORMS}
    for form, reason in reasons.items():
        if reason is None:
            return form
    raise InputError(
        "no form can hold this model: " + "; ".join(f"{form}, {reason}" for form, reason in reasons.items())
    )


def refusal(anatomy: Anatomy, removed: frozenset[Block], form: Form) -> str | None:
    """Why a form can't hold the model without some blocks, or None when it can."""
    return {"stock": _no_stock, "packed": _no_packed, "portable": _no_portable}[form](anatomy, removed)


def build(anatomy: Anatomy, removed: Iterable[Block], form: Form) -> Shape:
    """Config and tensors of the model without some blocks.

    Raises:
        InputError: when the form can't hold it, with the reason.
    """
    gone = frozenset(removed)
    reason = refusal(anatomy, gone, form)
    if reason:
        raise InputError(f"the {form} form can't hold this model: {reason}; choose another --form")
    return {"stock": _stock, "packed": _packed, "portable": _portable}[form](anatomy, gone)


# What survives --------------------------------------------------------------------------------------------------------


def survivors(anatomy: Anatomy, removed: frozenset[Block]) -> list[tuple[Site, list[Kind]]]:
    """Layers with something left, in order, and the kinds of blocks left in each."""
    rows = []
    for site in anatomy.sites:
        kinds = [b.kind for b in sorted(anatomy.branches) if b.layer == site.number and b not in removed]
        if kinds or anatomy.extras[site.number]:
            rows.append((site, sorted(kinds, key=KINDS.index)))
    return rows


def pairs(anatomy: Anatomy, removed: frozenset[Block]) -> list[tuple[Site, Site]] | None:
    """(attention's layer, MLP's layer) of every pair, when the survivors are whole pairs in order; else None."""
    sequence = [(site, kind) for site, kinds in survivors(anatomy, removed) for kind in tuple(kinds) or ("extra",)]
    if [kind for _, kind in sequence] != ["attention", "mlp"] * (len(sequence) // 2):
        return None
    return [(sequence[i][0], sequence[i + 1][0]) for i in range(0, len(sequence), 2)]


def _rides_on_depth(anatomy: Anatomy) -> str | None:
    if getattr(anatomy.model.config, "scale_attn_by_inverse_layer_idx", False):
        return "its attentions are scaled by their layer's number (scale_attn_by_inverse_layer_idx)"
    return None


def _mixed(anatomy: Anatomy) -> str | None:
    """Dense layers among mixtures of experts: the config tells them by number."""
    kinds = {(block.kind, type(branch.modules()[-1])) for block, branch in anatomy.branches.items()}
    if len(kinds) > len({block.kind for block in anatomy.branches}):
        return "its layers are of several kinds, told apart by their number"
    return None


def _no_stock(anatomy: Anatomy, removed: frozenset[Block]) -> str | None:
    if anatomy.family.task == "seq2seq":
        return "encoder-decoder models are written as portable only"
    paired = pairs(anatomy, removed)
    if not paired:
        return "the blocks left do not pair up into whole layers (--shape standard makes the search keep them so)"
    split = [pair for pair in paired if pair[0] is not pair[1]]
    if split and (anatomy.parallel or any(anatomy.shared[site.number] for pair in split for site in pair)):
        return "attention and MLP run in parallel, so only those of one layer pair up"
    if split and any(anatomy.extras[site.number] for pair in split for site in pair):
        return "its layers have parts besides attention and MLP, which can't be split"
    return _mixed(anatomy) or _rides_on_depth(anatomy)


def _no_packed(anatomy: Anatomy, removed: frozenset[Block]) -> str | None:
    if anatomy.family.task == "seq2seq":
        return "encoder-decoder models are written as portable only"
    if not any("attention" in kinds for _, kinds in survivors(anatomy, removed)):
        return "no attention is left to build layers from"
    names = {str(sorted(branch.names.items(), key=str)) for branch in anatomy.branches.values()}
    if len(names) > len({block.kind for block in anatomy.branches}):
        return "its layers are not put together alike"
    return _rides_on_depth(anatomy)


def _no_portable(anatomy: Anatomy, removed: frozenset[Block]) -> str | None:
    if getattr(anatomy.model.config, "packing", None):
        return "the source is packed already"
    if anatomy.family.task == "masked":
        return "the norm lies behind the residual sum, so a zeroed projection is not a removed block"
    return None


# The three forms ------------------------------------------------------------------------------------------------------


def _stock(anatomy: Anatomy, removed: frozenset[Block]) -> Shape:
    paired = pairs(anatomy, removed) or []
    config = source_config(anatomy)
    for name, values in _per_layer(config).items():
        setattr(config, name, [values[attention.number] for attention, _ in paired])
    config.num_hidden_layers = len(paired)
    path = anatomy.family.stacks[0].layers
    places: dict[tuple[int, str], str] = {}
    for index, (attention, mlp) in enumerate(paired):
        places[mlp.number, "mlp"] = f"{path}.{index}"
        places |= {(attention.number, part): f"{path}.{index}" for part in ("attention", "shared", "extra")}
    return Shape("stock", config, dict(_renamed(anatomy, removed, places)))


def _packed(anatomy: Anatomy, removed: frozenset[Block]) -> Shape:
    rows = survivors(anatomy, removed)
    source = source_config(anatomy)
    config = _packed_config(anatomy, source)
    config.packing = packing(anatomy, source, rows)
    shallow(config)
    places: dict[tuple[int, str], str] = {}
    for number, place in _packed_places(rows, anatomy.family.stacks[0].layers).items():
        places |= {(number, part): place for part in ("attention", "mlp", "shared", "extra")}
    return Shape("packed", config, dict(_renamed(anatomy, removed, places)))


def _packed_places(rows: list[tuple[Site, list[Kind]]], path: str) -> dict[int, str]:
    """Where each surviving source layer lies in the packed model."""
    places: dict[int, str] = {}
    index, orphans = -1, 0
    for site, kinds in rows:
        if "attention" in kinds:
            index, orphans = index + 1, 0
            places[site.number] = f"{path}.{index}"
        else:
            places[site.number] = f"{path}.{max(index, 0)}.{'pre' if index < 0 else 'post'}.{orphans}"
            orphans += 1
    return places


def _portable(anatomy: Anatomy, removed: frozenset[Block]) -> Shape:
    tensors = dict(_source_tensors(anatomy))
    names = {id(parameter): name for name, parameter in anatomy.model.named_parameters()}
    for block in removed:
        branch = anatomy.branches[block]
        for parameter in projection(branch.modules()[-1], branch.site.stack, block.kind).values():
            tensors[names[id(parameter)]] = torch.zeros_like(parameter)
    return Shape("portable", own_config(anatomy), tensors)


# Configs --------------------------------------------------------------------------------------------------------------


def runs_own_code(anatomy: Anatomy) -> bool:
    """Whether the model was made by code that came with its checkpoint, which the user then trusted."""
    return type(anatomy.model).__module__.startswith("transformers_modules.")


def own_config(anatomy: Anatomy) -> PreTrainedConfig:
    """A copy of the model's config, without pointers to code that the model does not run."""
    config: PreTrainedConfig = copy.deepcopy(anatomy.model.config)
    if not runs_own_code(anatomy) and hasattr(config, "auto_map"):
        del config.auto_map
    return config


def source_config(anatomy: Anatomy) -> PreTrainedConfig:
    """The config before any pruning, of the full depth."""
    config = own_config(anatomy)
    before: Packing | None = getattr(config, "packing", None)
    if before is None:
        return config
    ours = ("packing", "model_type", "auto_map", "architectures")
    plain = {k: v for k, v in config.to_dict().items() if k not in ours}
    stock_class: Any = type(config).__mro__[2]  # behind the packed class and its mixin
    stock: PreTrainedConfig = stock_class.from_dict(plain)
    stock.num_hidden_layers = before["num_hidden_layers"]
    stock.architectures = [name.removeprefix("Packed") for name in config.architectures or ()]
    for name, values in before["per_layer"].items():
        setattr(stock, name, values)
    if before.get("auto_map"):
        stock.auto_map = before["auto_map"]
    return stock


def _per_layer(config: PreTrainedConfig) -> dict[str, list[Any]]:
    """Config entries with a value per layer, as ``layer_types``."""
    depth = config.num_hidden_layers
    lists = {k: v for k, v in config.to_dict().items() if isinstance(v, list) and len(v) == depth}
    return {name: values for name, values in lists.items() if "layer" in name}


def _packed_config(anatomy: Anatomy, source: PreTrainedConfig) -> PreTrainedConfig:
    """The source's config as a packed one, with what transformers needs to find the code beside the weights."""
    remote = getattr(source, "auto_map", None)
    stock: Any = type(source)
    plain = {k: v for k, v in source.to_dict().items() if k not in ("model_type", "auto_map")}
    config: PreTrainedConfig = packed_class(stock).from_dict(plain)
    module = "packed_remote" if remote else "packed"
    head_auto = "AutoModelForMaskedLM" if anatomy.family.task == "masked" else "AutoModelForCausalLM"
    config.architectures = [f"Packed{type(anatomy.model).__name__.removeprefix('Packed')}"]
    base = type(anatomy.model.base_model).__name__.removeprefix("Packed")
    names = {"AutoConfig": f"Packed{stock.__name__}", "AutoModel": f"Packed{base}", head_auto: config.architectures[0]}
    config.auto_map = {auto: f"{module}.{name}" for auto, name in names.items()}
    return config


def packing(anatomy: Anatomy, source: PreTrainedConfig, rows: list[tuple[Site, list[Kind]]]) -> dict[str, Any]:
    """What ``config.packing`` holds (see :class:`remodeler.packed.Packing`), with the names needed to prune again."""
    names: dict[str, BranchNames] = {
        block.kind: branch.names for block, branch in sorted(anatomy.branches.items(), reverse=True)
    }
    before = getattr(anatomy.model.config, "packing", None) or {}
    return {
        "source": source.model_type,
        "family": next(name for name, row in FAMILIES.items() if row is anatomy.family),
        "layers": anatomy.family.stacks[0].layers,
        "num_hidden_layers": source.num_hidden_layers,
        "per_layer": _per_layer(source),
        "branches": {**before.get("branches", {}), **{kind: dict(value) for kind, value in sorted(names.items())}},
        "shared": list(next(iter(anatomy.shared.values()))) if not before else before["shared"],
        "parallel": anatomy.parallel,
        "kept": [[site.number, list(kinds)] for site, kinds in rows],
        **({"auto_map": source.auto_map} if getattr(source, "auto_map", None) else {}),
    }


# Tensors --------------------------------------------------------------------------------------------------------------


def _source_tensors(anatomy: Anatomy) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the model by name, without those tied to another."""
    tied = set(getattr(anatomy.model, "all_tied_weights_keys", None) or ())
    for name, tensor in anatomy.model.state_dict().items():
        if name not in tied:
            yield name, tensor


def _renamed(
    anatomy: Anatomy, removed: frozenset[Block], places: dict[tuple[int, str], str]
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of what survives, by their new names. ``places``: new path of a (source layer, part)."""
    paths = {id(module): name for name, module in anatomy.model.named_modules(remove_duplicate=False)}
    sites = {paths[id(site.layer)]: site for site in anatomy.sites}
    gone: set[tuple[int, str]] = {(block.layer, block.kind) for block in removed}
    for name, tensor in _source_tensors(anatomy):
        prefix = max((path for path in sites if name.startswith(path + ".")), key=len, default=None)
        if prefix is None:
            yield name, tensor
            continue
        site, local = sites[prefix], name[len(prefix) + 1 :]
        part = (site.number, _part(anatomy, site, local))
        if part in places and part not in gone:
            yield f"{places[part]}.{local}", tensor


def _part(anatomy: Anatomy, site: Site, local: str) -> str:
    """Which part of a layer a tensor belongs to: a kind of block, ``shared`` or ``extra``."""
    for kind in KINDS:
        branch = anatomy.branches.get(Block(site.number, kind))
        if branch and any(local.startswith(path + ".") for path in [*branch.names["modules"], *branch.names["norms"]]):
            return kind
    return "shared" if any(local.startswith(path + ".") for path in anatomy.shared[site.number]) else "extra"
