"""How a GGUF file stretches rotary positions, in the words of a transformers config.

Keys say a factor and a way; Llama 3's way and Phi-3's are tensors that frequencies are divided by.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.model.files.gguf.keys import Keys

BASE = 10000.0
"""llama.cpp's where a file says none."""
LLAMA3, LLAMA3_LONG, LLAMA3_SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = (LLAMA3, LLAMA3_LONG, LLAMA3_SHORT)
"""That are read here and are no weights of a model."""
LLAMA3_RANGE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama 3.1, 3.2 and 3.3; files don't say it."""
YARN = {"yarn_beta_fast": ("beta_fast", 32.0), "yarn_beta_slow": ("beta_slow", 1.0)}
NEUTRAL = {"yarn_attn_factor": (1.0,), "yarn_ext_factor": (-1.0, 1.0)}
"""Values that change nothing."""


def rope_parameters(keys: Keys, head: int) -> dict[str, Any]:
    """What a config says of rotary positions.

    Args:
        keys: of the file; those of rotary positions are taken.
        head: numbers of a head.

    Raises:
        InputError: for what a config can't say.
    """
    found: dict[str, Any] = {"rope_theta": float(keys.take("rope.freq_base", BASE))}
    keys.take("rope.scaling.finetuned")
    if LLAMA3 in keys.header.tensors:
        return found | _llama3(keys, found["rope_theta"], head)
    if LLAMA3_LONG in keys.header.tensors:
        return found | _longrope(keys)
    kind = keys.take("rope.scaling.type", "linear" if "rope.scale_linear" in keys.left else "none")
    factor = float(keys.take("rope.scaling.factor", keys.take("rope.scale_linear", 0.0)))
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        keys.take("rope.scaling.original_context_length")
        return found | {"rope_type": "default"}
    if kind == "linear":
        return found | {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and factor > 0:
        return found | _yarn(keys, factor)
    raise keys.refusal("rope.scaling.type", kind)


def _yarn(keys: Keys, factor: float) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    if before := keys.take("rope.scaling.original_context_length"):
        found["original_max_position_embeddings"] = int(before)
    for name, (field, plain) in YARN.items():
        if (value := keys.take(f"rope.scaling.{name}", plain)) != plain:
            found[field] = value
    for name, neutral in NEUTRAL.items():
        if (value := keys.take(f"rope.scaling.{name}", neutral[0])) not in neutral:
            raise keys.refusal(f"rope.scaling.{name}", value)
    if (more := float(keys.take("rope.scaling.attn_factor", 1.0))) != 1.0:  # beside YaRN's own
        found["attention_factor"] = more * (0.1 * math.log(max(factor, 1.0)) + 1.0)
    return found


def _longrope(keys: Keys) -> dict[str, Any]:
    """Phi-3's: two tensors."""
    keys.take("rope.scaling.type")
    before, context = keys.need("rope.scaling.original_context_length"), keys.context
    stretched = context / before
    attention = math.sqrt(1 + math.log(stretched) / math.log(before)) if stretched > 1 else 1.0
    found: dict[str, Any] = {"rope_type": "longrope", "original_max_position_embeddings": int(before)}
    for name, field in ((LLAMA3_LONG, "long_factor"), (LLAMA3_SHORT, "short_factor")):
        found[field] = _vector(keys, name)
    told = float(keys.take("rope.scaling.attn_factor", attention))
    return found if math.isclose(told, attention, rel_tol=1e-5) else found | {"attention_factor": told}


def _vector(keys: Keys, name: str) -> list[float]:
    if name not in keys.header.tensors:
        raise InputError(f"{keys.header.path} has no {name}, which goes with another like it: get the file again")
    found: list[float] = np.array(keys.header.tensors[name].data, np.float32).astype(np.float64).tolist()
    return found


# Llama 3 --------------------------------------------------------------------------------------------------------------


def _llama3(keys: Keys, base: float, head: int) -> dict[str, Any]:
    told = _vector(keys, LLAMA3)
    keys.take("rope.scaling.type"), keys.take("rope.scaling.factor")
    before = int(keys.take("rope.scaling.original_context_length", LLAMA3_RANGE["original_max_position_embeddings"]))
    found = {**LLAMA3_RANGE, "original_max_position_embeddings": before, "factor": max(told, default=1.0)}
    wanted = llama3_factors(found, base, head).tolist()
    if len(told) != len(wanted) or not np.allclose(told, wanted, rtol=1e-4):
        raise InputError(
            f"{keys.header.path} divides its frequencies ({LLAMA3}) in another way than Llama 3 does: give the folder "
            "that it was made from"
        )
    return {"rope_type": "llama3", **found}


def llama3_factors(rope: dict[str, Any], base: float, head: int) -> Tensor:
    """What each frequency is divided by: [head / 2].

    Low frequencies by the factor, high ones by 1, between them a mixture (Llama 3.1's code).

    Args:
        rope: ``factor``, ``low_freq_factor``, ``high_freq_factor``, ``original_max_position_embeddings``.
        base: of the frequencies.
        head: numbers of a head.
    """
    waves = 2 * math.pi * base ** (torch.arange(0, head, 2, dtype=torch.float64) / head)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((rope["original_max_position_embeddings"] / waves - low) / (high - low)).clamp(0, 1)
    factors: Tensor = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return factors.float()
