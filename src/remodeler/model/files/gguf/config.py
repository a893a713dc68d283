"""A transformers config out of the keys of a GGUF file: a table by architecture.

transformers reads such files too (``gguf_file=``), and says a model's shape from them; what else changes its arithmetic
it takes from the class, whatever the file says: scaled positions (Llama 3.1, YaRN, Phi-3), the rotary base of
StarCoder 2 and StableLM, the head size of Qwen3, the query scale of the largest Gemmas, biases. All of that is read
here, and a key that nothing reads is refused by name. Facts of llama.cpp are from its ``src/models`` and converter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gguf import GGUFValueType

from remodeler.errors import InputError
from remodeler.model.files.gguf.header import Header
from remodeler.model.files.gguf.keys import INSTEAD, WHOLE, Keys
from remodeler.model.files.gguf.numbers import refuse_other_kinds
from remodeler.model.files.gguf.rope import rope_parameters
from remodeler.model.files.gguf.values import printable

Settings = dict[str, Any]
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
OTHER_KINDS = {
    "adapter": "an adapter, which has to be merged into its model first (llama-export-lora)",
    "mmproj": "the vision or audio part of a model",
    "imatrix": "an importance matrix for quantising",
}
"""By ``general.type``."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "tensor_data_layout": ("jploski", "Meta AI original pth", "reference"),
    **dict.fromkeys(("expert_count", "expert_used_count", "nextn_predict_layers", "pooling_type"), (0,)),
}
"""Keys that ask for nothing with these values."""


# What every decoder says ----------------------------------------------------------------------------------------------


def _sizes(keys: Keys) -> Settings:
    hidden, heads = int(keys.need("embedding_length")), int(keys.need("attention.head_count"))
    return {
        "hidden_size": hidden,
        "num_hidden_layers": int(keys.need("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(keys.take("attention.head_count_kv", heads)),
        "max_position_embeddings": keys.context,
    }


def _decoder(keys: Keys, norm: str = "rms_norm_eps", named_head: bool = True, partial: bool = False) -> Settings:
    """One with rotary positions.

    Args:
        keys: of the file.
        norm: what the config calls the epsilon of norms.
        named_head: the config says the size of a head.
        partial: it may rotate a part of a head only.
    """
    found = _sizes(keys) | {"intermediate_size": int(keys.need("feed_forward_length"))}
    plain = found["hidden_size"] // found["num_attention_heads"]
    head = int(keys.take("attention.key_length", plain))
    for name, wanted in (("value_length", head), ("key_length", head if named_head else plain)):
        told = keys.take(f"attention.{name}", head)
        if told != wanted:
            raise keys.refusal(f"attention.{name}", told)
    rotated = int(keys.take("rope.dimension_count", head))
    if rotated != head and not partial:
        raise keys.refusal("rope.dimension_count", rotated)
    kind = "attention.layer_norm_rms_epsilon" if "rms" in norm else "attention.layer_norm_epsilon"
    rope = rope_parameters(keys, head) | ({"partial_rotary_factor": rotated / head} if partial else {})
    named = {"head_dim": head} if named_head else {}
    return found | named | {norm: float(keys.need(kind)), "rope_parameters": rope}


# One by one -----------------------------------------------------------------------------------------------------------


def _llama(keys: Keys) -> Settings:
    return _decoder(keys) | {
        "attention_bias": keys.has("attn_q.bias"),
        "mlp_bias": keys.has("ffn_up.bias"),
    }


def _qwen2(keys: Keys) -> Settings:
    return _decoder(keys, named_head=False)


def _qwen3(keys: Keys) -> Settings:
    return _decoder(keys) | {"attention_bias": keys.has("attn_q.bias")}


def _qwen3_moe(keys: Keys) -> Settings:
    experts = {
        "num_experts": int(keys.need("expert_count")),
        "num_experts_per_tok": int(keys.need("expert_used_count")),
        "moe_intermediate_size": int(keys.need("expert_feed_forward_length")),
        "norm_topk_prob": True,
    }
    return _decoder(keys) | experts


def _phi3(keys: Keys) -> Settings:
    found = _decoder(keys, named_head=False, partial=True)
    before = found["rope_parameters"].get("original_max_position_embeddings")
    before = before or int(keys.take("rope.scaling.original_context_length", found["max_position_embeddings"]))
    keys.take("rope.scaling.attn_factor")
    window = keys.take("attention.sliding_window")
    return found | {"original_max_position_embeddings": before, "sliding_window": window or None}


def _gemma(keys: Keys, largest: int) -> Settings:
    """Gemma 2 and 3; ``largest``: layers of the size whose queries are scaled by what a head of the hidden size has."""
    found = _decoder(keys) | {"sliding_window": int(keys.need("attention.sliding_window"))}
    plain = found["hidden_size"] // found["num_attention_heads"]
    found["query_pre_attn_scalar"] = plain if found["num_hidden_layers"] == largest else found["head_dim"]
    return found


def _gemma2(keys: Keys) -> Settings:
    caps = {
        name: float(keys.take(name, default))
        for name, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0))
    }
    return _gemma(keys, 46) | caps


def _gemma3(keys: Keys) -> Settings:
    sliding = {"rope_type": "default", "rope_theta": float(keys.take("rope.freq_base_swa", 10000.0))}
    pattern = int(keys.take("attention.sliding_window_pattern", 6))
    if (cap := keys.take("final_logit_softcapping", 0.0)) != 0:
        raise keys.refusal("final_logit_softcapping", cap)
    found = _gemma(keys, 62)
    rope = {"full_attention": found["rope_parameters"], "sliding_attention": sliding}
    kinds = [f"{'sliding' if (n + 1) % pattern else 'full'}_attention" for n in range(found["num_hidden_layers"])]
    return found | {"rope_parameters": rope, "layer_types": kinds}


def _starcoder2(keys: Keys) -> Settings:
    return _decoder(keys, "norm_epsilon", named_head=False) | {"use_bias": keys.has("attn_q.bias")}


def _stablelm(keys: Keys) -> Settings:
    keys.take("use_parallel_residual")  # seen in the tensors
    return _decoder(keys, "layer_norm_eps", named_head=False, partial=True) | {
        "use_qkv_bias": keys.has("attn_q.bias"),
        "use_parallel_residual": not keys.has("ffn_norm.weight"),
    }


def _falcon(keys: Keys) -> Settings:
    """The 7B's; llama.cpp has queries, keys and values of the others in an order of its own."""
    found = _sizes(keys)
    if (shared := found.pop("num_key_value_heads")) != 1:
        raise keys.refusal("attention.head_count_kv", shared)
    rope = rope_parameters(keys, found["hidden_size"] // found["num_attention_heads"])
    return found | {
        "ffn_hidden_size": int(keys.take("feed_forward_length", 4 * found["hidden_size"])),
        "layer_norm_epsilon": float(keys.need("attention.layer_norm_epsilon")),
        "rope_parameters": rope,
    }


def _bloom(keys: Keys) -> Settings:
    found = _sizes(keys)
    if (channels := keys.take("feed_forward_length", 4 * found["hidden_size"])) != 4 * found["hidden_size"]:
        raise keys.refusal("feed_forward_length", channels)
    return {
        "hidden_size": found["hidden_size"],
        "n_layer": found["num_hidden_layers"],
        "n_head": found["num_attention_heads"],
        "seq_length": found["max_position_embeddings"],
        "layer_norm_epsilon": float(keys.need("attention.layer_norm_epsilon")),
    }


def _gpt2(keys: Keys) -> Settings:
    found = _sizes(keys)
    return {
        "n_embd": found["hidden_size"],
        "n_layer": found["num_hidden_layers"],
        "n_head": found["num_attention_heads"],
        "n_positions": found["max_position_embeddings"],
        "n_inner": int(keys.take("feed_forward_length", 4 * found["hidden_size"])),
        "layer_norm_epsilon": float(keys.need("attention.layer_norm_epsilon")),
    }


@dataclass(frozen=True)
class Row:
    """An architecture that is read."""

    model_type: str
    model_class: str
    settings: Callable[[Keys], Settings]


ROWS: Mapping[str, Row] = {
    "llama": Row("llama", "LlamaForCausalLM", _llama),
    "qwen2": Row("qwen2", "Qwen2ForCausalLM", _qwen2),
    "qwen3": Row("qwen3", "Qwen3ForCausalLM", _qwen3),
    "qwen3moe": Row("qwen3_moe", "Qwen3MoeForCausalLM", _qwen3_moe),
    "gemma2": Row("gemma2", "Gemma2ForCausalLM", _gemma2),
    "gemma3": Row("gemma3_text", "Gemma3ForCausalLM", _gemma3),
    "phi3": Row("phi3", "Phi3ForCausalLM", _phi3),
    "starcoder2": Row("starcoder2", "Starcoder2ForCausalLM", _starcoder2),
    "stablelm": Row("stablelm", "StableLmForCausalLM", _stablelm),
    "falcon": Row("falcon", "FalconForCausalLM", _falcon),
    "bloom": Row("bloom", "BloomForCausalLM", _bloom),
    "gpt2": Row("gpt2", "GPT2LMHeadModel", _gpt2),
}
"""By ``general.architecture``."""


# All of it ------------------------------------------------------------------------------------------------------------


def settings_of(header: Header) -> Settings:
    """The config of a model in a GGUF file, as a ``config.json`` has it.

    Raises:
        InputError: for a file of another kind, or one that says what is not acted on.
    """
    arch = architecture_of(header)
    refuse_other_kinds(header)
    keys, row = Keys(header, arch), ROWS[arch]
    found = row.settings(keys)
    keys.take("vocab_size")  # the embeddings say it
    for name, neutral in NEUTRAL.items():
        if (value := keys.take(name, neutral[0])) not in neutral:
            raise keys.refusal(name, value)
    keys.refuse_left()
    return {
        "model_type": row.model_type,
        "architectures": [row.model_class],
        "vocab_size": header.tensors[EMBEDDING].shape[0],
        "tie_word_embeddings": OUTPUT not in header.tensors,
        "dtype": "float32",
        **_special(header),
        **found,
    }


def architecture_of(header: Header) -> str:
    """The architecture of a file that holds a whole language model.

    Raises:
        InputError: for any other, which says what it is.
    """
    path, kind = header.path, header.keys.get("general.type")
    if kind is not None and kind.value != "model":
        what = OTHER_KINDS.get(str(kind.value), f"of the type {printable(str(kind.value))}")
        raise InputError(f"{path} is {what}, and no language model: {WHOLE}")
    arch = header.keys.get("general.architecture")
    if arch is None or arch.kind != GGUFValueType.STRING:
        raise InputError(f"{path} does not say of which architecture it is (general.architecture): {WHOLE}")
    if arch.value == "clip":
        raise InputError(f"{path} is {OTHER_KINDS['mmproj']}, and no language model: {WHOLE}")
    if arch.value in ("deci", "openelm"):
        raise InputError(f"{path} is of the architecture {arch.value}, as pruned models are: give what it was made of")
    if arch.value not in ROWS:
        raise InputError(
            f"{path} is of the architecture {printable(str(arch.value))!r}, read are {', '.join(ROWS)}: {INSTEAD}"
        )
    if not header.tensors:
        raise InputError(f"{path} holds a vocabulary and no weights: {WHOLE}")
    if EMBEDDING not in header.tensors:
        raise InputError(f"{path} has no {EMBEDDING}: {WHOLE}")
    return str(arch.value)


def _special(header: Header) -> Settings:
    """Ids of special tokens."""
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    keys = {field: header.keys.get(f"tokenizer.ggml.{name}_token_id") for field, name in names.items()}
    return {field: int(key.value) if key is not None else None for field, key in keys.items()}
