"""Read folders in the standard form of unlike layers: ``per_layer_config`` with ``skip`` or widths, weights to match.

Such a folder, of another tool or of a transformers to come, has an ordinary model type, and transformers 5.24
would build what is skipped with random numbers. Here it becomes a packed model, for every family that is pruned here.
"""

import copy
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig

import remodeler.packed
from remodeler.checkpoint.configs import overrides
from remodeler.checkpoint.forms import build
from remodeler.checkpoint.from_tensors import model_of_tensors
from remodeler.checkpoint.repositories import download
from remodeler.checkpoint.standard import HEADS, SHARED, width_names
from remodeler.errors import InputError, option
from remodeler.model.blocks import Anatomy, own_modules
from remodeler.model.families import Family
from remodeler.model.files.dequantised import open_slices
from remodeler.model.files.weights import tensor_files
from remodeler.model.pairing import packed_places
from remodeler.model.structures import structure_of
from remodeler.model.tracing import probe, trace
from remodeler.packed import TEXT
from remodeler.runs.units import KINDS, Block

logger = logging.getLogger(__name__)

Narrow = tuple[Block, tuple[int, ...]]
"""A block and the heads or channels that it has."""


def skips(name: str, settings: Mapping[str, Any], how: str = "") -> bool:
    """Whether a ``config.json`` leaves blocks of some layers out, which its own class would pass over.

    Args:
        name: of the checkpoint, for people.
        settings: its ``config.json``.
        how: an option by which it is to be read otherwise than into the memory of one device.

    Raises:
        InputError: where there is such an option, and where it is the text part of one of text and images.
    """
    if _told_in(settings.get(TEXT)) and "packing" not in settings:
        raise InputError(
            f"{name} skips blocks of its text part (per_layer_config), which is read of language models alone: save "
            "its text model by itself, as docs/reference/models.md shows, and give that"
        )
    found = "packing" not in settings and _told_in(settings)
    if found and how:
        raise InputError(
            f"{name} skips blocks (per_layer_config), which are read into one device's memory: leave {option(how)} out"
        )
    return found


def _told_in(settings: Any) -> bool:
    """Whether a config leaves blocks of some layers out."""
    told = settings.get("per_layer_config") if isinstance(settings, Mapping) else None
    return isinstance(told, Mapping) and any("skip" in each for each in told.values() if isinstance(each, Mapping))


def skipping_model(
    auto: Any,
    device: torch.device,
    config: PreTrainedConfig,
    name: str,
    row: Family,
    dtype: torch.dtype | str,
    revision: str | None = None,
    **code: bool,
) -> tuple[Any, Any]:
    """A packed model of such a folder, and what transformers says of its loading.

    Args:
        auto: transformers' Auto class.
        device: where to compute.
        config: its config.
        name: folder or hub id.
        row: its family.
        dtype: what to compute in.
        revision: of the hub id.
        code: ``trust_remote_code``.

    Raises:
        InputError: where a layer is told something that is not acted on here.
    """
    if len(row.stacks) > 1:
        raise InputError(
            f"{name} skips blocks (per_layer_config), which does not say of which list, encoder or decoder: remove it"
        )
    told = overrides(config)
    plain = copy.deepcopy(config)
    plain.per_layer_config = None
    anatomy = _stock_anatomy(auto, plain, row, dtype, code)
    gone = [block for number, each in told.items() for block in _skipped(name, anatomy, int(number), each)]
    widths = {block: kept for number, each in told.items() for block, kept in _widths(name, anatomy, int(number), each)}
    packed: Any = build(anatomy, gone, "packed", widths).config
    logger.info(f"{name} leaves {len(gone)} blocks out (per_layer_config): read as a packed model")
    model_class = getattr(remodeler.packed, packed.architectures[0])
    tensors = _renamed(open_slices(tensor_files(download(name, revision))), packed.packing, _idle(anatomy, gone))
    del anatomy
    return model_of_tensors(model_class, packed, tensors, name, dtype, device)


def _idle(anatomy: Anatomy, gone: Sequence[Block]) -> tuple[str, ...]:
    """How tensors begin that belong to skipped blocks only, by their names in files."""
    path = anatomy.family.stacks[0].layers
    parts = ((block.layer, part) for block in gone for part in own_modules(anatomy.branches[block]))
    return tuple(f"{path}.{number}.{part}." for number, part in parts)


def _stock_anatomy(
    auto: Any, config: PreTrainedConfig, row: Family, dtype: torch.dtype | str, code: dict[str, bool]
) -> Anatomy:
    """The blocks of the model that its config would make without ``per_layer_config``, of random numbers."""
    kind = config.dtype if isinstance(dtype, str) else dtype
    model = auto.from_config(config, dtype=kind, **code).eval()
    return trace(model, row, probe(row, torch.device("cpu")))


def _skipped(name: str, anatomy: Anatomy, number: int, told: Mapping[str, Any]) -> Iterator[Block]:
    """The blocks that a layer skips."""
    for kind in told.get("skip", ()):
        block = Block(number, kind) if kind in KINDS else None
        if block not in anatomy.branches:
            has = ", ".join(anatomy.kinds(number))
            raise InputError(
                f"{name} skips {kind!r} in layer {number} (per_layer_config), which has {has}: correct that"
            )
        yield block


def _widths(
    name: str, anatomy: Anatomy, number: int, told: Mapping[str, Any]
) -> Iterator[tuple[Block, tuple[int, ...]]]:
    """The heads and channels that a layer has, where its model has more."""
    config = anatomy.model.config
    own = width_names(config)
    if other := next((key for key in told if key not in ("skip", *own["all"])), None):
        raise InputError(
            f"{name} has another {other} in layer {number} (per_layer_config), which is not read beside skip: "
            f"it can be {', '.join(own['all'])}"
        )
    for kind, names in (("mlp", own["mlp"]), ("attention", [SHARED] if SHARED in own["all"] else [HEADS])):
        given = {told[key] for key in told if key in (names if kind == "mlp" else (HEADS, SHARED))}
        if given and (kind not in told.get("skip", ())):
            yield from _kept(name, anatomy, Block(number, kind), told, names)  # type: ignore[arg-type]


def _kept(name: str, anatomy: Anatomy, block: Block, told: Mapping[str, Any], names: list[str]) -> Iterator[Narrow]:
    structure, config = structure_of(anatomy, block), anatomy.model.config
    count = next((told[key] for key in names if key in told), structure.groups)
    heads = count * config.num_attention_heads // structure.groups
    if count > structure.groups or (block.kind == "attention" and told.get(HEADS, config.num_attention_heads) != heads):
        said = ", ".join(f"{key} {value}" for key, value in told.items() if key != "skip")
        raise InputError(
            f"{name} has {said} in layer {block.layer} (per_layer_config), which is no part of the "
            f"{structure.groups} {structure.noun} of the model: it can't be read"
        )
    yield block, tuple(range(count))


def _renamed(tensors: Mapping[str, Any], packing: dict[str, Any], idle: tuple[str, ...]) -> dict[str, Any]:
    """Tensors by the names that a packed model has for them, without those that are skipped."""
    path = packing["layers"]
    places = {f"{path}.{number}.": f"{path}.{place}." for number, place in packed_places(packing["kept"]).items()}
    found: dict[str, Any] = {}
    for key, tensor in tensors.items():
        layer = re.match(rf"{re.escape(path)}\.\d+\.", key)
        if not layer:
            found[key] = tensor
        elif layer[0] in places and not key.startswith(idle):
            found[places[layer[0]] + key[layer.end() :]] = tensor
    return found
