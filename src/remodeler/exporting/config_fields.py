"""What a config asks for, held against what an export acts on: the rest is refused by name.

Llama's shapes as other runtimes know them are said by a few fields. One of a newer transformers, or of another family,
may change what is computed, and a runtime that does not know of it would compute something else without a word.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from remodeler.errors import InputError
from remodeler.exporting.survivors import slides

ACTED_ON = frozenset(
    [
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
        *("num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "rope_parameters"),
        *("attention_bias", "mlp_bias", "packing"),  # seen in the tensors
        *("hidden_act", "sliding_window", "use_sliding_window", "layer_types", "max_window_layers"),  # refused below
    ]
)
NEUTRAL = frozenset(
    [
        *("architectures", "dtype", "transformers_version", "id2label", "label2id", "problem_type", "return_dict"),
        *("output_hidden_states", "chunk_size_feed_forward", "is_encoder_decoder", "initializer_range", "use_cache"),
        *("attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "pretraining_tp"),
    ]
)
"""Fields that change nothing in what a finished decoder computes."""
ELSEWHERE: Mapping[str, Any] = {
    **dict.fromkeys(("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier", "scale_emb"), 1),
    **dict.fromkeys(("attention_multiplier", "query_pre_attn_scalar", "attention_scale", "scale_depth"), None),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "logit_softcapping", "clip_qkv"), None),
    **dict.fromkeys(("alibi", "use_qk_norm", "qk_layernorm", "attn_qkv_bias", "parallel_residual"), False),
    **dict.fromkeys(("no_rope_layers", "attention_chunk_size", "attn_temperature_tuning"), None),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 0),
    **{"is_causal": True, "partial_rotary_factor": 1, "num_nextn_predict_layers": 0, "per_layer_config": None},
}
"""Fields that mean something in other families, each with the value that asks for nothing."""
ROPE: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
"""Ways to stretch rotary positions, and the numbers that each goes by."""
YARN: Mapping[str, Any] = {"beta_fast": 32, "beta_slow": 1, "truncate": True, "mscale": None, "mscale_all_dim": None}
"""Other fields of YaRN, each with the value that changes nothing."""

UNREAD = ("finetuned", "original_max_position_embeddings")
"""What transformers does not compute with, but where ``ROPE`` has it."""


def refuse_other_arithmetic(config: Any, name: str, target: str, yarn: tuple[str, ...] = ()) -> None:
    """Raise for what a target could not say, and its readers would leave out without a word.

    Args:
        config: of the checkpoint.
        name: the checkpoint's, for people.
        target: what is written, for people.
        yarn: fields of YaRN that it can say besides the factor.

    Raises:
        InputError: by the field that asks for it.
    """
    instead = "keep the folder, for transformers or vLLM"
    if slides(config) or set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        raise InputError(f"{name} attends within a sliding window, which {target} has no field for: {instead}")
    if config.hidden_act not in ("silu", "swish"):
        raise InputError(f"{name} has the activation {config.hidden_act}, {target} has silu: {instead}")
    for field, value in [*_unknown(config), *_unknown_rope(rope_of(config), yarn)]:
        asked = f"{field} = {str(value)[:60]}"
        raise InputError(f"{name} has {asked} in its config, which {target} has no field for: {instead}")


def rope_of(config: Any) -> dict[str, Any]:
    """How its positions are rotated."""
    return {"rope_theta": 10000.0, "rope_type": "default", **(getattr(config, "rope_parameters", None) or {})}


def _unknown(config: Any) -> Iterator[tuple[str, Any]]:
    known = {each.name: each.default for each in fields(config)} if is_dataclass(config) else {}
    for field, value in config.to_dict().items():
        if field in ELSEWHERE:
            neutral = ELSEWHERE[field]
            nothing = value is None or value == neutral or (not value and neutral is not True)
        else:
            nothing = field in ACTED_ON | NEUTRAL or field not in known or value in (None, known[field])
        if not nothing:
            yield field, value


def _unknown_rope(rope: dict[str, Any], yarn: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    kind = rope["rope_type"]
    if kind not in ROPE:
        yield "rope_type", kind
        return
    for field in ROPE[kind]:
        if rope.get(field) is None:
            yield f"no {field} for rope_type", kind
    known = {"rope_theta", "rope_type", "type", *ROPE[kind], *(yarn if kind == "yarn" else ())}
    for field, value in rope.items():
        if field not in known and not _adds_nothing(field, value, rope):
            yield field, value


def _adds_nothing(field: str, value: Any, rope: dict[str, Any]) -> bool:
    """Whether a field of rotary positions that is not written asks for what happens anyway."""
    if field == "attention_factor" and rope["rope_type"] == "yarn" and value is not None:
        return math.isclose(value, 0.1 * math.log(max(float(rope["factor"]), 1)) + 1, rel_tol=1e-6)
    neutral = {"partial_rotary_factor": 1, **YARN} if rope["rope_type"] == "yarn" else {"partial_rotary_factor": 1}
    return value is None or field in UNREAD or (field in neutral and value == neutral[field])
