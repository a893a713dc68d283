"""Where the layers of a checkpoint go, of whatever kind its files are."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from remodeler.checkpoint.device_maps import DeviceMap, Limits, device_map_for
from remodeler.checkpoint.gguf import is_gguf
from remodeler.checkpoint.library_errors import CONFIG_PART, one_sentence
from remodeler.checkpoint.quantised import METHODS, Quantised
from remodeler.checkpoint.repositories import download
from remodeler.checkpoint.skipping import skips
from remodeler.errors import InputError, option
from remodeler.model.families import Family
from remodeler.model.files.shards import stored_dtype
from remodeler.model.files.weights import tensor_files


def laid_out(
    name: str,
    auto: Any,
    row: Family,
    config: PreTrainedConfig,
    dtype: torch.dtype | str,
    quantised: Quantised | None,
    told: str | Path | Mapping[str, Any],
    limits: Limits | None = None,
    revision: str | None = None,
    **code: bool,
) -> DeviceMap:
    """Which layer of a checkpoint goes to which device.

    Args:
        name: folder, GGUF file or hub id.
        auto: transformers' Auto class.
        row: its family.
        config: of the checkpoint.
        dtype: what it is computed in; a text where its files decide.
        quantised: how its files are quantised, if they are.
        told: a strategy, a map, or a JSON file of one.
        limits: what weights may take, by device.
        revision: of the hub id.
        code: ``trust_remote_code``.

    Raises:
        InputError: for the disk where weights are in no file as they are computed, and for a map that does not fit.
    """
    skips(name, config.to_dict(), "device_map")  # which it refuses
    if not isinstance(dtype, torch.dtype):
        dtype = config.dtype if isinstance(config.dtype, torch.dtype) else _stored(name, revision)
    plain = copy.deepcopy(config)
    if quantised:
        vars(plain).pop("quantization_config", None)
    with one_sentence(name, CONFIG_PART):
        found = device_map_for(name, auto, plain, row, dtype, told, limits, **code)
    if quantised and len(found) > 1 and METHODS[quantised.method].parts is None:
        raise InputError(
            f"{name} is quantised ({quantised.method}), which is dequantised on one device: leave "
            f"{option('device_map')} out, or dequantise the model and save it"
        )
    if "disk" in found.values() and (quantised or is_gguf(name)):
        raise InputError(
            f"{option('device_map')} would offload layers of {name} to the disk, where they are not as they are "
            f"computed: allow more memory ({option('max_memory')}), or use {option('stream')} where there is one"
        )
    return found


def _stored(name: str, revision: str | None) -> torch.dtype:
    return stored_dtype(tensor_files(download(name, revision)))
