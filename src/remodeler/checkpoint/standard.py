"""The standard form of unlike layers: transformers' ``per_layer_config``, what a layer skips and how wide it is.

transformers 5.24 reads and checks it, and no model of it acts on ``skip`` yet: it would build the skipped blocks with
random numbers. So a packed folder carries the form inside ``config.packing``, where nothing takes it for more than it
is, and :mod:`remodeler.checkpoint.skipping` reads the folders of those who write it themselves.
"""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from remodeler.checkpoint.configs import BUILD_ERRORS, Rows, cut_config, overrides
from remodeler.model.blocks import Anatomy
from remodeler.model.families import config_names, unpacked_type
from remodeler.model.structures import Structure, Widths, head_size, layout
from remodeler.packed_layers import branches_of
from remodeler.runs.units import KINDS, Block, Kind

HEADS, SHARED = "num_attention_heads", "num_key_value_heads"
"""What configs call the query heads of a layer, and its key-value heads."""
Fields = dict[str, Any]


def standard_fields(
    anatomy: Anatomy, source: PreTrainedConfig, packed: PreTrainedConfig, rows: Rows, widths: Widths
) -> Fields | None:
    """What a stock config says otherwise than a packed one of the layers that are left, checked by transformers.

    Args:
        anatomy: the traced source.
        source: its config before any pruning.
        packed: the packed config of what is left.
        rows: layers with something left, and the kinds of blocks left in each.
        widths: by block the heads or channels that stay.

    Returns:
        Fields of ``config.json``, ``per_layer_config`` among them; None where the config's class can't say it.
    """
    config = copy.deepcopy(source)
    try:
        cut_config(config, [(site.number, site.number) for site, _ in rows])
        told = {int(place): each for place, each in overrides(config).items()}
        for place, (site, kinds) in enumerate(rows):
            told[place] = told.get(place, {}) | _said(anatomy, config, site.number, kinds, widths)
        if HEADS in {name for each in told.values() for name in each}:
            config.allow_global_per_layer_attribute_access = True  # else its class stumbles over its own division
        config.per_layer_config = {place: each for place, each in told.items() if each}
        written = type(config).from_dict(config.to_dict()).to_dict()
    except BUILD_ERRORS:
        return None
    before = packed.to_dict()
    ours = ("model_type", "architectures", "auto_map", "transformers_version")
    return {name: value for name, value in written.items() if name not in ours and before.get(name) != value}


def _said(
    anatomy: Anatomy, config: PreTrainedConfig, number: int, kinds: Sequence[Kind], widths: Widths
) -> dict[str, Any]:
    """What one layer has otherwise than its model."""
    before = getattr(anatomy.model.config, "packing", None)
    had = branches_of(before, number) if before else anatomy.kinds(number)
    skip: list[str] = [kind for kind in sorted(had, key=KINDS.index) if kind not in kinds]
    found: dict[str, Any] = {"skip": skip} if skip else {}
    for block in (Block(number, kind) for kind in kinds):
        each = layout(anatomy, block)
        if isinstance(each, Structure):
            found |= _width(anatomy, config, each, len(widths.get(block, range(each.groups))))
    return found


def _width(anatomy: Anatomy, config: PreTrainedConfig, structure: Structure, count: int) -> dict[str, int]:
    """Heads or channels of a block of which so many groups stay, where its config says another number."""
    told = width_names(config)
    width = count * structure.columns
    if structure.block.kind == "mlp":
        said = dict.fromkeys(told["mlp"], width)
    else:
        size = head_size(anatomy.branches[structure.block])
        said = {HEADS: width // size, **({SHARED: count} if structure.projections == 4 else {})}
    return {name: value for name, value in said.items() if name in told["all"] and getattr(config, name) != value}


def width_names(config: PreTrainedConfig) -> dict[str, list[str]]:
    """What a config calls its widths: of an ``mlp``, and of ``all`` kinds of blocks."""
    channels = [name for name in config_names(unpacked_type(config.model_type)).channels if _counts(config, name)]
    return {"mlp": channels, "all": [*channels, *(name for name in (HEADS, SHARED) if _counts(config, name))]}


def _counts(config: PreTrainedConfig, name: str) -> bool:
    return isinstance(config._getattr_without_heterogeneous_validation(name, None), int)
