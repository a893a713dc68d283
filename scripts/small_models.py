"""A small random model of any causal model type of transformers, from its own config class.

Fields that nearly all configs have are made small by name; ``SPECIAL`` says what a type needs besides.
"""

import dataclasses
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig

LAYERS = 4
VOCABULARY = 64
LARGEST = 4_000_000
_WIDTHS = (
    *("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "embedding_dim", "lru_width", "emb_dim"),
    *("word_embed_proj_dim", "backbone_hidden_size", "ngram_hidden_size"),
)
_CHANNELS = (
    *("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "ffn_hidden_size", "dff"),
    *("shared_expert_intermediate_size", "moe_intermediate_size", "shared_intermediate_size", "d_inner", "dim_ff"),
    *("moe_shared_expert_intermediate_size", "expert_ffn_hidden_size", "intermediate_size_mlp", "feed_forward_size"),
    *("shared_experts_intermediate_size", "dense_intermediate_size", "prefix_dense_intermediate_size", "block_ffn_dim"),
    *("centroid_intermediate_top_k", "router_hidden_size"),
)
_DEPTHS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers", "num_blocks"),
    *("num_encoder_layers", "num_decoder_layers"),
)
_HEADS = (
    *("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"),
    *("num_encoder_attention_heads", "num_decoder_attention_heads", "attention_heads", "swa_num_attention_heads"),
)
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("decoder_vocab_size", "unpadded_vocab_size", "output_vocab_size"), VOCABULARY),
    "vocab_size_per_layer_input": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    **dict.fromkeys(_WIDTHS, 32),
    **dict.fromkeys(_CHANNELS, 48),
    **dict.fromkeys(_DEPTHS, LAYERS),
    **dict.fromkeys(_HEADS, 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 64),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "attention_head_dim", "kv_channels", "global_head_dim"), 8),
    **dict.fromkeys(("sliding_window", "window_size", "sliding_window_size", "attention_window_size"), 8),
    "attention_chunk_size": 16,
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    "qk_head_dim": 16,
    "rotary_dim": 8,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 64,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 2),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    "mamba_dt_rank": 4,
    "time_step_rank": 4,
    "num_mtp_layers": 0,
    "num_nextn_predict_layers": 0,
    "use_cache": True,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "num_kv_shared_layers": 2,
}
"""By the field's name; a class takes those that it has."""

_FULL, _SLIDING, _LINEAR = "full_attention", "sliding_attention", "linear_attention"
_EVERY_OTHER = {"layer_types": [_LINEAR, _FULL] * 2}
_WINDOWS = {"layer_types": [_SLIDING, _FULL] * 2}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_SHARED = {
    **_WINDOWS,
    "num_kv_shared_layers": 1,
    "global_head_dim": 16,
    "layer_types": [_SLIDING, _FULL, _SLIDING, _FULL],
}
_VISION = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_position_embeddings"), 16),
    **{"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "num_channels": 3},
}

SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": _EVERY_OTHER,
    "bamba": {"attn_layer_indices": [1, 3], "mamba_n_groups": 1},
    "cohere_compass_text": _WINDOWS | {"rope_parameters": {_FULL: _ROPE, _SLIDING: _ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": _WINDOWS,
    "dots3_note_text": {
        **dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads"), 2),
        **dict.fromkeys(("swa_q_lora_rank", "swa_kv_lora_rank", "swa_head_dim"), 16),
        **dict.fromkeys(("swa_qk_nope_head_dim", "swa_v_head_dim"), 8),
    },
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3": {"vision_config": _VISION},
    "gemma3_text": _WINDOWS,
    "gemma3n_text": _WINDOWS | {"num_kv_shared_layers": 1},
    "gemma4_text": _SHARED,
    "gemma4_unified_text": _SHARED,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": _EVERY_OTHER | {"num_local_experts": 4},
    "inkling_text": {"layer_types": ["hybrid_sliding", "hybrid"] * 2},
    "inkling2_text": {"layer_types": ["hybrid_sliding", "hybrid"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": _EVERY_OTHER,
    "kolibri1": _WINDOWS,
    "laguna": _WINDOWS,
    "lfm2": {"full_attn_idxs": [1, 3], "layer_types": None},
    "lfm2_moe": {"layer_types": ["conv", _FULL] * 2},
    "longcat_flash": {"zero_expert_num": 2, "n_routed_experts": 4, "num_layers": 2},
    "llama4_text": {"moe_layers": [1, 3], "interleave_moe_layer_step": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "mellum": _WINDOWS,
    "ministral": _WINDOWS,
    "mpt": {},
    "nemotron_h": {"layers_block_type": [_LINEAR, "mlp", _FULL, "moe"]},
    "olmo_hybrid": _EVERY_OTHER,
    "phi4_multimodal": {},
    "qwen3_5_moe_text": _EVERY_OTHER,
    "qwen3_5_text": _EVERY_OTHER,
    "qwen3_next": _EVERY_OTHER,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds": False},
    "roc_bert": {"pronunciation_vocab_size": 64, "shape_vocab_size": 64},
    "zamba": {"layers_block_type": [_LINEAR, "hybrid"] * 2, "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": [_LINEAR, "hybrid"] * 2, "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}
"""By model type, what fits it better than ``SMALL``."""


def small_config(model_type: str) -> PreTrainedConfig:
    """A config of a few layers, as narrow as the type allows."""
    config_class: Any = CONFIG_MAPPING[model_type]
    return _small(config_class, SPECIAL.get(model_type, {}))


def _small(config_class: Any, special: dict[str, Any]) -> PreTrainedConfig:
    known = {each.name for each in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    inner: dict[str, Any] = {}
    for name, sub in config_class.sub_configs.items():
        if isinstance(sub, type) and dataclasses.is_dataclass(sub):
            inner[name] = _small(sub, special.get(name, {})).to_dict()
    given = {name: value for name, value in SMALL.items() if name in known}
    if "kv_lora_rank" in known:  # every head has its own keys and values
        given["num_key_value_heads"] = given["num_attention_heads"]
    config: PreTrainedConfig = config_class(**{**given, **inner, **special})
    return config


def small_model(model_type: str, seed: int = 0, auto: Any = AutoModelForCausalLM) -> Any:
    """A random model of a type; norms and biases are random too, so that none hides a mistake.

    Raises:
        ValueError: for a type that stays large.
    """
    return _random_model(small_config(model_type), auto, seed, LARGEST)


def _random_model(config: PreTrainedConfig, auto: Any, seed: int, largest: int) -> Any:
    with torch.device("meta"):
        count = sum(each.numel() for each in auto.from_config(config).parameters())
    if count > largest:
        raise ValueError(f"{count:,} parameters are no small model: name what makes it large in SPECIAL")
    torch.manual_seed(seed)
    model = auto.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


# Models of text and images --------------------------------------------------------------------------------------------

_IMAGES: dict[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "depth", "num_layers", "n_layers", "encoder_layers", "layers"), 2),
    **dict.fromkeys(("image_size", "img_size"), 28),
    **{"patch_size": 14, "num_channels": 3, "in_channels": 3, "spatial_merge_size": 1, "temporal_patch_size": 1},
    **dict.fromkeys(("out_hidden_size", "text_hidden_size", "output_dim", "projection_dim"), 32),
    **{"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
}
"""What the parts beside the text model are made of, in place of ``SMALL``."""
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
_TEXT_MROPE = {"text_config": _MROPE}
WRAPPERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_vl", "qwen2_5_vl"), _TEXT_MROPE),
    "glm4v_moe": {"text_config": {"rope_parameters": {**_MROPE["rope_parameters"], "mrope_section": [1, 1, 0]}}},
    "hunyuan_vl": _TEXT_MROPE,
    "qwen2_5_omni_thinker": _TEXT_MROPE,
}
"""By model type, what fits a model of text and images better, in its parts and at the top."""


def small_wrapper_config(model_type: str) -> PreTrainedConfig:
    """A config of a small model of text and images: its parts are of the classes that it has by default."""
    config_class: Any = CONFIG_MAPPING[model_type]
    special = WRAPPERS.get(model_type, {})
    default = config_class()
    inner = {
        name: _small(type(part), _special_of(name, part, special)).to_dict()
        for name in config_class.sub_configs
        if isinstance(part := getattr(default, name, None), PreTrainedConfig) and dataclasses.is_dataclass(part)
    }
    others = {name: value for name, value in special.items() if name not in inner}
    known = {each.name for each in dataclasses.fields(config_class)} - set(inner)
    given = {name: value for name, value in SMALL.items() if name in known}
    config: PreTrainedConfig = config_class(**{**given, **inner, **others})
    return config


def _special_of(name: str, part: PreTrainedConfig, special: dict[str, Any]) -> dict[str, Any]:
    own = SPECIAL.get(part.model_type, {})
    if name != "text_config":
        known = {each.name for each in dataclasses.fields(part)} | set(part.attribute_map)
        own = {key: value for key, value in _IMAGES.items() if key in known} | own
    return own | special.get(name, {})


def small_wrapper(model_type: str, seed: int = 0) -> Any:
    """A random model of text and images of a type, see :func:`small_model`."""
    return _random_model(small_wrapper_config(model_type), AutoModelForImageTextToText, seed, 50_000_000)
