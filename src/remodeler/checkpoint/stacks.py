"""The forms of a model with several lists of layers: of an encoder-decoder model, each list is cut by itself.

A whole layer of an encoder is an attention and an MLP, one of a decoder has a cross-attention between them. Blocks lie
in the stream one behind the other, so a layer may be put together from blocks of several source layers.
"""

from collections.abc import Iterator, Sequence

from transformers import DynamicCache, PreTrainedConfig

from remodeler.checkpoint.configs import BUILD_ERRORS, DECODER_DEPTH, Rows, build_on_meta, source_config
from remodeler.model.blocks import Anatomy
from remodeler.model.pairing import packed_places
from remodeler.packed_layers import StackNames
from remodeler.runs.units import Kind

Layer = dict[Kind, int]
"""The source layers that the blocks of one layer come from."""


def by_stack(anatomy: Anatomy, rows: Rows) -> list[Rows]:
    """What is left, for each list of layers."""
    return [[row for row in rows if row[0].stack is stack] for stack in anatomy.family.stacks]


def stack_names(anatomy: Anatomy) -> list[StackNames]:
    """Where a config says how many layers each list of a model had at first."""
    before = getattr(anatomy.model.config, "packing", None)
    if before:
        stacks: list[StackNames] = before["stacks"]
        return stacks
    counts = [sum(site.stack is stack for site in anatomy.sites) for stack in anatomy.family.stacks]
    each = zip(anatomy.family.stacks, counts, strict=True)
    return [StackNames(layers=stack.layers, depth=stack.depth, num_layers=count) for stack, count in each]


# Stock ----------------------------------------------------------------------------------------------------------------


def no_stock(anatomy: Anatomy, rows: Rows) -> str | None:
    """Why no ordinary model holds what is left, as the end of a sentence; None where one does."""
    layers = whole_layers(anatomy, rows)
    if layers is None:
        return "the blocks left do not make whole layers of its encoder and its decoder (`unit='layer'` keeps them so)"
    if not all(layers):
        return "a list of layers would be empty"
    config = stock_config(anatomy, layers)
    try:
        build_on_meta(anatomy, config)
    except BUILD_ERRORS as error:
        return f"a config of the layers left is refused ({str(error).strip().splitlines()[-1].strip()})"
    return None


def short_of_caches(anatomy: Anatomy, rows: Rows) -> bool:
    """Whether an ordinary model of what is left could not generate; see :func:`lacks_caches`."""
    return len(anatomy.family.stacks) > 1 and lacks_caches(stock(anatomy, rows)[0])


def lacks_caches(config: PreTrainedConfig) -> bool:
    """Whether transformers would make caches for fewer layers than a decoder has, when it generates.

    As of a T5 whose decoder is deeper than its encoder: it counts the encoder's layers.
    """
    depth = next((count for name in DECODER_DEPTH if (count := getattr(config, name, None))), 0)
    return bool(config.is_encoder_decoder) and depth > len(
        DynamicCache(config=config.get_text_config(decoder=True)).layers
    )


def stock(anatomy: Anatomy, rows: Rows) -> tuple[PreTrainedConfig, dict[tuple[int, str], str]]:
    """The config of an ordinary model of what is left, and the new path of every (source layer, part)."""
    layers = whole_layers(anatomy, rows) or []
    return stock_config(anatomy, layers), stock_places(anatomy, layers)


def whole_layers(anatomy: Anatomy, rows: Rows) -> list[list[Layer]] | None:
    """The layers that what is left makes, for each list; None where it makes no whole ones."""
    found: list[list[Layer]] = []
    for stack, part in zip(anatomy.family.stacks, by_stack(anatomy, rows), strict=True):
        kinds: list[Kind] = ["attention", "cross", "mlp"] if stack.cross else ["attention", "mlp"]
        blocks = [(kind, site.number) for site, left in part for kind in left]
        layers = [blocks[at : at + len(kinds)] for at in range(0, len(blocks), len(kinds))]
        if any([kind for kind, _ in layer] != kinds for layer in layers) or _has_extras(anatomy, layers):
            return None
        found.append([dict(layer) for layer in layers])
    return found


def _has_extras(anatomy: Anatomy, layers: Sequence[Sequence[tuple[Kind, int]]]) -> bool:
    """Whether a layer that is put together from several has parts that are no block."""
    split = {number for layer in layers for _, number in layer if len({n for _, n in layer}) > 1}
    return any(anatomy.extras[number] or anatomy.shared[number] for number in split)


def stock_config(anatomy: Anatomy, layers: Sequence[Sequence[Layer]]) -> PreTrainedConfig:
    """The source's config with so many layers in each list."""
    config = source_config(anatomy)
    for names, each in zip(stack_names(anatomy), layers, strict=True):
        setattr(config, names["depth"], len(each))
    return config


def stock_places(anatomy: Anatomy, layers: Sequence[Sequence[Layer]]) -> dict[tuple[int, str], str]:
    """New path of a (source layer, kind of block); what is no block goes with the attention."""
    places: dict[tuple[int, str], str] = {}
    for stack, each in zip(anatomy.family.stacks, layers, strict=True):
        for index, layer in enumerate(each):
            places |= {(number, kind): f"{stack.layers}.{index}" for kind, number in layer.items()}
            places |= {(layer["attention"], part): f"{stack.layers}.{index}" for part in ("shared", "extra")}
    return places


# Packed ---------------------------------------------------------------------------------------------------------------


def no_packed(anatomy: Anatomy, rows: Rows) -> str | None:
    """Why no packed model holds what is left; None where one does."""
    for stack, part in zip(anatomy.family.stacks, by_stack(anatomy, rows), strict=True):
        if not any("attention" in kinds for _, kinds in part):
            return f"no attention is left in {stack.layers} to build layers from"
    return None


def packed_paths(anatomy: Anatomy, rows: Rows) -> Iterator[tuple[int, str]]:
    """Source layers, and their new paths."""
    for stack, part in zip(anatomy.family.stacks, by_stack(anatomy, rows), strict=True):
        for number, place in packed_places([(site.number, kinds) for site, kinds in part]).items():
            yield number, f"{stack.layers}.{place}"
