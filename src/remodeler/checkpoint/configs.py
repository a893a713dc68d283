"""The configs of a pruned model: the source's own, and what a form makes of it.

A config says how wide a model is once, for all layers. Where every layer keeps as many heads and channels it can say so
still; whether its class then builds just the parameters that are there is tried on the meta device.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig

from remodeler.model.blocks import Anatomy, LayerRef
from remodeler.model.families import BOTH, FAMILIES, config_names, unpacked_type
from remodeler.model.structures import Structure, Widths, counts_of, head_size, layout, structure_of
from remodeler.packed import PackedModel, computed, packed_class, packed_name
from remodeler.packed_layers import BranchNames, Packing
from remodeler.runs.units import Block, Kind

Rows = list[tuple[LayerRef, list[Kind]]]
"""Layers with something left, and the kinds of blocks left in each."""
PER_LAYER = ("layer", "types", "pattern", "rope_theta")
"""In the names of config entries that have a value per layer."""
DECODER_DEPTH = ("decoder_layers", "num_decoder_layers")
"""What configs of decoders call their depth where they have an encoder's too."""
OF_MLPS = ("mlp", "moe", "expert", "intermediate", "ffn")
"""In the names of those that speak of MLPs."""
HEADS = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "seq2seq": "AutoModelForSeq2SeqLM"}
"""The Auto class of a model with its head, by task."""
BUILD_ERRORS = (ValueError, TypeError, AttributeError, RuntimeError, KeyError, StrictDataclassError)
"""What transformers' classes raise for a config that they can't build a model of."""
Shapes = dict[str, dict[str, list[int]]]
"""By source layer, of the parameters that are narrower than the source's config says."""


def runs_own_code(anatomy: Anatomy) -> bool:
    """Whether the model was made by code that came with its checkpoint, which the user then trusted."""
    return type(anatomy.model).__module__.startswith("transformers_modules.")


def own_config(anatomy: Anatomy) -> PreTrainedConfig:
    """A copy of the model's config, without pointers to code that the model does not run."""
    config: PreTrainedConfig = copy.deepcopy(anatomy.model.config)
    if not runs_own_code(anatomy) and hasattr(config, "auto_map"):
        del config.auto_map
    names = config_names(unpacked_type(config.model_type))
    for name in (name for name in names.ahead if getattr(config, name, 0)):
        setattr(config, name, 0)  # transformers does not load those layers, so they are not in the files
    if names.spelled and isinstance(kinds := getattr(config, names.spelled[1], None), list):
        setattr(config, names.spelled[0], [[[kind], 1] for kind in kinds])
    return config


def source_config(anatomy: Anatomy) -> PreTrainedConfig:
    """The config before any pruning, of the full depth."""
    config = own_config(anatomy)
    before: Packing | None = getattr(config, "packing", None)
    if before is None:
        return config
    stock = unpack_config(config)
    stock.num_hidden_layers = before["num_hidden_layers"]
    for stack in before.get("stacks", ()):
        setattr(stock, stack["depth"], stack["num_layers"])
    for name, values in before["per_layer"].items():
        setattr(stock, name, values)
    if before.get("auto_map"):
        stock.auto_map = before["auto_map"]
    return stock


def unpack_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A packed config as its stock class has it, still of the packed depth: one layer a cache."""
    ours = ("packing", "model_type", "auto_map", "architectures")
    plain = {k: v for k, v in config.to_dict().items() if k not in ours}
    stock_class: Any = type(config).__mro__[2]  # behind the packed class and its mixin
    stock: PreTrainedConfig = stock_class.from_dict(plain)
    stock.architectures = [name.removeprefix("Packed") for name in config.architectures or ()]
    return stock


def per_layer(config: PreTrainedConfig) -> dict[str, list[Any]]:
    """Config entries with a value per layer, as ``layer_types``."""
    names = config_names(unpacked_type(config.model_type))
    own = (*names.channels, *names.heads)
    lists = {k: v for k, v in config.to_dict().items() if isinstance(v, list) and len(v) == config.num_hidden_layers}
    return {k: v for k, v in lists.items() if k in own or any(word in k for word in PER_LAYER)}


def derived(config: PreTrainedConfig) -> dict[str, list[Any]]:
    """What the config's class works out for every layer, as Jamba's kinds of layers from their period."""
    found = {name: getattr(config, name, None) for name in computed(type(config))}
    depth = config.num_hidden_layers
    return {name: list(v) for name, v in found.items() if isinstance(v, list | tuple) and len(v) == depth}


def overrides(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """By layer what its config has otherwise, as the size of a head in Gemma 4's full attentions."""
    return {str(int(number)): dict(each) for number, each in config.to_dict().get("per_layer_config", {}).items()}


def cut_config(config: PreTrainedConfig, paired: Sequence[tuple[int, int]]) -> None:
    """Give a config fewer layers, in place: lists, counts and numbers of layers alike.

    Args:
        config: of the source depth.
        paired: for every layer that is left the source layers of its attention and of its MLP.
    """
    names, depth = config_names(unpacked_type(config.model_type)), config.num_hidden_layers
    single, lists = overrides(config), per_layer(config)
    if single:
        config.per_layer_config = None  # its numbers would be refused
    for name, values in lists.items():
        side = int(any(word in name for word in OF_MLPS))
        setattr(config, name, [values[pair[side]] for pair in paired])
    kept = [mlp for _, mlp in paired]
    for name in names.leading:
        if isinstance(value := getattr(config, name, None), int):
            setattr(config, name, sum(number < value for number in kept))
    for name in names.trailing:
        if isinstance(value := getattr(config, name, None), int):
            setattr(config, name, sum(number >= depth - value for number in kept))
    for name in names.numbered:
        if isinstance(value := getattr(config, name, None), list | tuple):
            setattr(config, name, [place for place, number in enumerate(kept) if number in value])
    for name in depth_names(config):
        setattr(config, name, len(paired))
    if single:
        config.per_layer_config = {i: each for i, (a, _) in enumerate(paired) if (each := single.get(str(a)))}


def depth_names(config: PreTrainedConfig) -> list[str]:
    """All that a config calls the number of its decoder's layers."""
    names = config_names(unpacked_type(config.model_type)).depth
    return [name for name in (*DECODER_DEPTH, *names) if isinstance(getattr(config, name, None), int)]


def packed_config(anatomy: Anatomy, source: PreTrainedConfig) -> PreTrainedConfig:
    """The source's config as a packed one, with what transformers needs to find the code beside the weights."""
    remote = getattr(source, "auto_map", None)
    stock: Any = type(source)
    plain = {k: v for k, v in source.to_dict().items() if k not in ("model_type", "auto_map")}
    config: PreTrainedConfig = packed_class(stock).from_dict(plain)
    module = "packed_remote" if remote else "packed"
    base, head = (packed_name(each, stock) for each in _stock_classes(anatomy))
    config.architectures = [head]
    names = {"AutoConfig": f"Packed{stock.__name__}", "AutoModel": base, HEADS[anatomy.family.task]: head}
    config.auto_map = {each: f"{module}.{name}" for each, name in names.items()}
    return config


def _stock_classes(anatomy: Anatomy) -> list[Any]:
    """The base model's and the model's."""
    model: Any = type(anatomy.model)
    base: Any = type(anatomy.model.base_model)
    if base is model:  # as T5's, which has no name for it
        base = AutoModel._model_mapping.get(type(anatomy.model.config), model)
    return [each.__mro__[2] if each.__mro__[1].__name__ == PackedModel.__name__ else each for each in (base, model)]


def packing(anatomy: Anatomy, source: PreTrainedConfig, rows: Rows, shapes: Shapes) -> dict[str, Any]:
    """What ``config.packing`` holds (see :class:`remodeler.packed.Packing`), with the names needed to prune again."""
    names: dict[str, BranchNames] = {
        block.kind: branch.names for block, branch in sorted(anatomy.branches.items(), reverse=True)
    }
    before = getattr(anatomy.model.config, "packing", None) or {}
    shared = next((each for each in anatomy.shared.values() if each), ())
    alike = len(anatomy.family.stacks) == 1 and not anatomy.family.traced
    found = {} if alike else traced_packing(anatomy, source, names)
    branches = before.get("branches") or {kind: dict(value) for kind, value in sorted(names.items())}
    return {
        "source": source.model_type,
        "family": family_name(anatomy, source),
        "layers": anatomy.family.stacks[0].layers,
        "num_hidden_layers": source.num_hidden_layers,
        "per_layer": per_layer(source),
        "branches": branches,
        "shared": list(shared) if not before else before["shared"],
        "parallel": anatomy.parallel,
        "kept": [[site.number, list(kinds)] for site, kinds in rows],
        **found,
        **({"shapes": shapes, "counts": counts_of(anatomy.family.stacks[0])} if shapes else {}),
        **({"auto_map": source.auto_map} if getattr(source, "auto_map", None) else {}),
    }


def family_name(anatomy: Anatomy, source: PreTrainedConfig) -> str:
    """The row of a model's family, for pruning again."""
    before = getattr(anatomy.model.config, "packing", None)
    if before:
        return str(before["family"])
    own = [name for name in (source.model_type, source.model_type + BOTH) if FAMILIES.get(name) is anatomy.family]
    if own or source.model_type in FAMILIES:
        return str(own[0] if own else source.model_type)
    traced = anatomy.family.traced  # then any other that is will do
    return next(name for name, row in FAMILIES.items() if row is anatomy.family or (traced and row.traced))


def traced_packing(anatomy: Anatomy, source: PreTrainedConfig, names: dict[str, BranchNames]) -> dict[str, Any]:
    """What it holds besides of layers that may be unlike: of one list, or of an encoder and a decoder."""
    before: dict[str, Any] = getattr(anatomy.model.config, "packing", None) or {}
    if before:
        return {key: before[key] for key in ("had", "unlike", "rest", "derived", "overrides") if key in before}
    unlike: dict[str, dict[str, Any]] = defaultdict(dict)
    for block, branch in sorted(anatomy.branches.items()):
        if branch.names != names[block.kind]:
            unlike[str(block.layer)][block.kind] = dict(branch.names)
    found: dict[str, Any] = {
        "had": [anatomy.kinds(site.number) for site in anatomy.sites],
        "unlike": dict(unlike),
        "rest": {str(number): list(paths) for number, paths in anatomy.extras.items() if paths},
        "derived": derived(source),
        "overrides": overrides(source),
    }
    return {key: value for key, value in found.items() if value}


def unkept(config: PreTrainedConfig) -> list[str]:
    """Entries that the config's class changes when it is read again, as rotary bases of kinds that are gone."""
    written = config.to_dict()
    read = type(config).from_dict(config.to_dict()).to_dict()
    ours = ("packing", "architectures", "auto_map", "dtype", "transformers_version")
    return [key for key, value in written.items() if key not in ours and read.get(key) != value]


# Widths ---------------------------------------------------------------------------------------------------------------


def shapes_left(anatomy: Anatomy, rows: Rows, widths: Widths) -> Shapes:
    """What ``config.packing`` says of parameters that are narrower than the source's, in the layers that are left."""
    before = (getattr(anatomy.model.config, "packing", None) or {}).get("shapes", {})
    found: Shapes = {}
    for site, kinds in rows:
        shapes: dict[str, list[int]] = {}
        for block in (Block(site.number, kind) for kind in kinds):
            inside = tuple(f"{path}." for path in anatomy.branches[block].names["modules"])
            shapes |= {k: v for k, v in before.get(str(site.number), {}).items() if k.startswith(inside)}
            if block in widths:
                shapes |= structure_of(anatomy, block).shapes(site.layer, len(widths[block]))
        if shapes:
            found[str(site.number)] = dict(sorted(shapes.items()))
    return found


def widths_left(anatomy: Anatomy, rows: Rows, widths: Widths) -> dict[Kind, dict[tuple[int, int], Structure]]:
    """By kind of block, how wide its layers are inside and how many key-value heads they keep; and one such block."""
    found: dict[Kind, dict[tuple[int, int], Structure]] = defaultdict(dict)
    for block in (Block(site.number, kind) for site, kinds in rows for kind in kinds):
        each = layout(anatomy, block)
        if isinstance(each, Structure):
            count = len(widths.get(block, range(each.groups)))
            found[block.kind][count * each.columns, count if each.projections == 4 else 1] = each
    return found


def set_widths(config: PreTrainedConfig, anatomy: Anatomy, rows: Rows, widths: Widths) -> None:
    """Give a config the heads and channels that all layers keep, in place, under the names that it has for them."""
    for kind, found in widths_left(anatomy, rows, widths).items():
        ((width, shared), structure), *_ = found.items()
        if kind == "mlp":
            for name in (name for name in config_names(config.model_type).channels if hasattr(config, name)):
                setattr(config, name, width)
            continue
        size = head_size(anatomy.branches[structure.block])
        if width == config.num_attention_heads * size:
            continue
        config.head_dim, config.num_attention_heads = size, width // size
        if hasattr(config, "num_key_value_heads"):
            config.num_key_value_heads = shared


def stock_on_meta(anatomy: Anatomy, config: PreTrainedConfig) -> Any:
    """The stock model that a config makes when it is read again, on the meta device."""
    model_class: Any = type(anatomy.model)
    if getattr(anatomy.model.config, "packing", None):
        model_class = model_class.__mro__[2]
    with torch.device("meta"):
        return model_class(type(config).from_dict(config.to_dict()))


def build_on_meta(anatomy: Anatomy, config: PreTrainedConfig) -> dict[str, Tensor]:
    """Tensors of the stock model that a config makes, on the meta device, by their names in the files."""
    model = stock_on_meta(anatomy, config)
    tied = set(getattr(anatomy.model, "all_tied_weights_keys", None) or ())  # T5's config always says that its head is
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
