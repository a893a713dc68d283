"""Layers that predict tokens further ahead (multi-token prediction, MTP): what they are called in files.

They read the last hidden state and lie outside the model that transformers loads. Either they have a name of their own
(``mtp.layers.0``, ``model.mtp.0``: Qwen3-Next, MiMo, Ernie 4.5), or they are counted on behind the model's layers
(``model.layers.61`` of DeepSeek V3, GLM-4.5), where vLLM and llama.cpp look for them by the number of layers in the
config.
"""

import re
from typing import Any

from remodeler.model.families import config_names, unpacked_type
from remodeler.packed import text_of

NAMED = re.compile(r"(^|\.)mtp(_\w+)?\.")
NUMBERED = re.compile(r"(?<=\blayers\.)(\d+)(?=\.)")


def count_ahead(config: Any) -> int:
    """How many such layers a config says that there are."""
    text = text_of(config)
    names = config_names(unpacked_type(text.model_type)).ahead
    return max((int(getattr(text, name, 0) or 0) for name in names), default=0)


def is_ahead(config: Any, name: str) -> bool:
    """Whether a tensor that has no place in a model is of such a layer.

    Args:
        config: the model's.
        name: in the files.
    """
    found = NUMBERED.search(name)
    behind = found is not None and int(found[1]) >= depth(config)
    return bool(NAMED.search(name)) or (behind and count_ahead(config) > 0)


def renumbered(name: str, before: int, after: int) -> str:
    """The name of such a tensor behind another number of layers."""
    if NAMED.search(name):
        return name
    return NUMBERED.sub(lambda found: str(int(found[1]) - before + after), name, count=1)


def depth(config: Any) -> int:
    """Layers of the model itself."""
    text = text_of(config)
    names = config_names(unpacked_type(text.model_type)).depth
    return next((int(value) for name in names if (value := getattr(text, name, None))), 0)
