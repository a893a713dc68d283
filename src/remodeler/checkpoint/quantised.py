"""Quantised checkpoints: which are dequantised on the way in, and how; all others are refused by their method's name.

A model is read in bfloat16 numbers, whatever it is computed in, and so written: what is measured is what is saved.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.initialization import meta_device_safe_creation_ops

from remodeler.checkpoint.device_maps import DeviceMap
from remodeler.checkpoint.from_tensors import model_of_tensors
from remodeler.checkpoint.repositories import download, without_adapter
from remodeler.errors import InputError, option
from remodeler.model.families import Family
from remodeler.model.files.dequantised import (
    FP8,
    Blocks,
    Scale,
    fp8_parts,
    mxfp4_parts,
    open_slices,
    refuse_scaleless,
)
from remodeler.model.files.weights import tensor_files
from remodeler.model.streaming import read_generation

logger = logging.getLogger(__name__)

Settings = Mapping[str, Any]
KEY = "quantization_config"
INSTEAD = "give the unquantised checkpoint"
DEFAULT_BLOCK = (128, 128)
"""Of transformers, where an FP8 checkpoint says nothing."""


@dataclass(frozen=True)
class Quantised:
    """How the weights of a checkpoint are quantised."""

    method: str
    """As its config calls it."""
    settings: Settings
    """All that its config says of it."""

    @property
    def bits(self) -> int:
        """Of a number, without its share of a scale; the most where a checkpoint has several."""
        if self.method == "compressed-tensors":
            groups = (self.settings.get("config_groups") or {}).values()
            found = [(group.get("weights") or {}).get("num_bits") for group in groups]
            return max((int(each) for each in found if each), default=16)
        if self.method == "bitsandbytes":
            return 4 if self.settings.get("load_in_4bit") else 8
        return int(self.settings.get("bits") or METHODS[self.method].bits)


@dataclass(frozen=True)
class Method:
    """What dequantises checkpoints of a method."""

    bits: int = 8
    parts: Callable[[str, Path, Settings], Mapping[str, Any]] | None = None
    """Computes the tensors from a checkpoint's name, its folder and what its config says; None where transformers
    does."""
    package: str = ""
    """That transformers needs for it; its module has underscores in its name."""
    scales: tuple[Scale, ...] = ()
    """What transformers needs, and does not ask for."""


def _fp8(name: str, folder: Path, settings: Settings) -> Mapping[str, Any]:
    slices = open_slices(tensor_files(folder))
    if not any(each.get_dtype() in FP8 for each in slices.values()):
        raise InputError(f"config.json of {name} says fp8 and no weight is stored so: remove its {KEY}, or {INSTEAD}")
    return fp8_parts(name, slices, _blocks(name, settings))


def _blocks(name: str, settings: Settings) -> Blocks:
    given = settings.get("weight_block_size", DEFAULT_BLOCK)
    if given is None:
        return None
    if not isinstance(given, list | tuple) or len(given) != 2 or not all(type(n) is int and n > 0 for n in given):
        raise InputError(f"weight_block_size of {name} is {given}: two positive integers or null were expected")
    return int(given[0]), int(given[1])


def _mxfp4(name: str, folder: Path, _: Settings) -> Mapping[str, Any]:
    slices = open_slices(tensor_files(folder))
    if not any(key.endswith(("_blocks", "_scales")) for key in slices):
        raise InputError(f"config.json of {name} says mxfp4 and no weight is stored so: remove its {KEY}, or {INSTEAD}")
    return mxfp4_parts(name, slices)


METHODS: Mapping[str, Method] = {
    "fp8": Method(parts=_fp8),
    "mxfp8": Method(parts=_fp8),
    "mxfp4": Method(4, _mxfp4),
    "metal": Method(4, scales=((("U32",), ".weight", ".scales"), (("U32",), ".weight", ".qbiases"))),
    "compressed-tensors": Method(
        package="compressed-tensors",
        scales=(((*FP8, "I8"), ".weight", ".weight_scale"), (("I32", "U8"), ".weight_packed", ".weight_scale")),
    ),
    "bitsandbytes": Method(
        package="bitsandbytes", scales=((("I8",), ".weight", ".SCB"), (("U8",), ".weight", ".weight.absmax"))
    ),
}


def quantisation_of(settings: Settings) -> Quantised | None:
    """How a checkpoint is quantised, by its ``config.json``; None for one that is not."""
    found = settings.get(KEY)
    if not found:
        return None
    found = found if isinstance(found, Mapping) else {}
    loaded = found.get("load_in_4bit") or found.get("load_in_8bit")  # bitsandbytes of old names no method
    return Quantised("bitsandbytes" if loaded else str(found.get("quant_method") or "an unnamed method"), found)


def dequantisable(name: str, settings: Settings, stream: bool = False) -> Quantised | None:
    """How a checkpoint is quantised that can be dequantised here; None for one that is not quantised.

    Args:
        name: of the checkpoint, for people.
        settings: its ``config.json``.
        stream: whether its layers are to stay on disk.

    Raises:
        InputError: for a method that nothing here dequantises, by its name.
    """
    found = quantisation_of(settings)
    if found is None:
        return None
    method = METHODS.get(found.method)
    if method is None:
        raise InputError(
            f"{name} is quantised ({found.method}), which can't be dequantised here: {INSTEAD}, and quantise the result"
        )
    _refuse_variant(name, found)
    if method.package and find_spec(method.package.replace("-", "_")) is None:
        raise InputError(
            f"{name} is quantised ({found.method}), and the package {method.package}, which dequantises that, is not "
            f"installed: install it, or {INSTEAD}"
        )
    if stream:
        raise InputError(
            f"{name} is quantised ({found.method}), which can't be streamed: leave {option('stream')} out, or {INSTEAD}"
        )
    return found


def _refuse_variant(name: str, found: Quantised) -> None:
    """FP8 whose experts have four bits, two of them in a byte."""
    if (kind := found.settings.get("expert_dtype", "fp8")) != "fp8":
        raise InputError(f"{name} is quantised ({found.method} with experts in {kind}), which is not known: {INSTEAD}")


def refuse_quantised(name: str, settings: Settings) -> None:
    """Refuse a quantised checkpoint where files are read as they are.

    Raises:
        InputError: by the method's name.
    """
    if found := quantisation_of(settings):
        raise InputError(f"{name} is quantised ({found.method}), which is not read here: {INSTEAD}")


def slices_of(name: str, folder: Path, settings: Settings) -> Mapping[str, Any] | None:
    """All tensors of a quantised checkpoint as numbers, also such as its model has not; None where transformers reads.

    Args:
        name: of the checkpoint, for people.
        folder: where its files lie.
        settings: its ``config.json``.
    """
    found = quantisation_of(settings)
    parts = METHODS[found.method].parts if found else None
    return parts(name, folder, found.settings) if parts and found else None


# Reading --------------------------------------------------------------------------------------------------------------


def dequantised_model(
    auto: Any,
    device: torch.device | DeviceMap,
    found: Quantised,
    config: PreTrainedConfig,
    name: str,
    row: Family,
    dtype: torch.dtype,
    revision: str | None = None,
    **code: bool,
) -> tuple[Any, Any]:
    """A model in memory in numbers that bfloat16 holds, and what transformers says of its loading.

    Args:
        auto: transformers' Auto class.
        device: where to compute.
        found: how the checkpoint is quantised.
        config: its config.
        name: folder or hub id.
        row: its family, which the files do not depend on.
        dtype: what to compute in.
        revision: of the hub id.
        code: ``trust_remote_code``.
    """
    logger.info(f"{name} is quantised ({found.method}, {found.bits} bits): dequantised to bfloat16")
    config, parts = copy.deepcopy(config), METHODS[found.method].parts
    folder = download(name, revision)
    if parts:
        del config.quantization_config
        built = _on_meta(auto, config, code)
        tensors = parts(name, folder, found.settings)
        model, info = model_of_tensors(type(built), built.config, tensors, name, dtype, device)
        read_generation(model, folder)
        return model, info
    refuse_scaleless(name, open_slices(tensor_files(folder)), METHODS[found.method].scales)
    config.quantization_config = {**found.settings, "dequantize": True}
    place = device if isinstance(device, dict) else {"": device}
    where: dict[str, Any] = {"dtype": dtype, "device_map": place, "revision": revision, **code}
    where |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = auto.from_pretrained(name, config=config, **where, **without_adapter(name))
    return _rounded(model, dtype), info


def _on_meta(auto: Any, config: PreTrainedConfig, code: Mapping[str, bool]) -> Any:
    """A model without numbers, whose class is the one that a config is for."""
    with torch.device("meta"), meta_device_safe_creation_ops():
        return auto.from_config(config, **code)


@torch.no_grad()
def _rounded(model: Any, dtype: torch.dtype) -> nn.Module:
    """A model that transformers dequantised, or does now, in numbers of bfloat16; it leaves dtypes mixed."""
    whole: nn.Module = model.dequantize(dtype) if getattr(model, "hf_quantizer", None) else model
    for parameter in whole.parameters():
        parameter.data = parameter.data.bfloat16().to(dtype)
    return whole
