"""How wide the layers of a pruned model are, as its config says it: once for all, or layer by layer."""

from collections import defaultdict

from transformers import PreTrainedConfig

from remodeler.checkpoint.configs import Rows, Shapes
from remodeler.model.blocks import Anatomy
from remodeler.model.families import config_names
from remodeler.model.structures import Structure, Widths, head_size, layout, structure_of
from remodeler.packed import text_of
from remodeler.runs.units import Block, Kind


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
    config = text_of(config)
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
