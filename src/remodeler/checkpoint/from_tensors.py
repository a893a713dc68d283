"""A transformers model of tensors that are computed from other files than its own: GGUF, quantised checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

from remodeler.checkpoint.device_maps import DeviceMap, placed, quiet_dispatch


def model_of_tensors(
    model_class: Any,
    config: PreTrainedConfig,
    tensors: Mapping[str, Any],
    name: str,
    dtype: torch.dtype | str,
    device: torch.device | DeviceMap,
) -> tuple[Any, Any]:
    """The model, and what transformers says of its loading.

    Args:
        model_class: of transformers, not an Auto class.
        config: without a word on quantisation.
        tensors: by transformers' names; each is asked for its numbers when its turn comes.
        name: folder, file or hub id that they come from.
        dtype: what to compute in.
        device: where it is to be, or the layers of it.
    """
    with quiet_dispatch():
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **placed(device),
        )
    model.config.name_or_path = model.name_or_path = name
    return model, info
