"""Tiny transformers models as GGUF files, written as llama.cpp's converter writes them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFValueType, get_tensor_name_map, quants
from numpy.typing import NDArray

from remodeler.exporting.gguf.tokens import token_keys
from remodeler.model.files.gguf.values import Key, Raw, align, packed_header

ARCHITECTURES = {"gemma3_text": "gemma3", "qwen3_moe": "qwen3moe", "mistral": "llama"}
"""Where llama.cpp has another name."""
WHOLE, REAL, TEXT, FLAG = GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.STRING, GGUFValueType.BOOL
Array = NDArray[np.float32]


def architecture(config: Any) -> str:
    return ARCHITECTURES.get(config.model_type, config.model_type)


def model_keys(config: Any) -> dict[str, Key]:
    """Keys of the architecture, as far as its config has them."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    rope = getattr(config, "rope_parameters", None) or {}
    whole = {
        "block_count": config.num_hidden_layers,
        "context_length": getattr(config, "max_position_embeddings", None) or 2048,
        "embedding_length": hidden,
        "feed_forward_length": getattr(config, "ffn_hidden_size", None)
        or getattr(config, "intermediate_size", None)
        or getattr(config, "n_inner", None)
        or 4 * hidden,
        "attention.head_count": heads,
        "attention.head_count_kv": 1
        if config.model_type == "falcon"
        else getattr(config, "num_key_value_heads", None) or heads,
    }
    if config.model_type not in ("gpt2", "bloom", "falcon", "starcoder2", "stablelm", "phi3"):
        whole |= {"attention.key_length": head, "attention.value_length": head, "rope.dimension_count": head}
    if config.model_type in ("stablelm", "phi3"):
        whole["rope.dimension_count"] = int(head * rope.get("partial_rotary_factor", 1.0))
    if config.model_type in ("gemma2", "gemma3_text", "phi3") and config.sliding_window:
        whole["attention.sliding_window"] = config.sliding_window
    if config.model_type == "qwen3_moe":
        whole |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    real = {"rope.freq_base": rope.get("full_attention", rope).get("rope_theta", 10000.0)} if rope else {}
    plain, rms = "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"
    names = {"layer_norm_epsilon": plain, "norm_epsilon": plain, "layer_norm_eps": plain, "rms_norm_eps": rms}
    real |= {key: getattr(config, name) for name, key in names.items() if hasattr(config, name)}
    arch = architecture(config)
    found = {f"{arch}.{name}": Key(int(value), WHOLE) for name, value in whole.items()}
    return found | {f"{arch}.{name}": Key(float(value), REAL) for name, value in real.items()}


# Tensors --------------------------------------------------------------------------------------------------------------


def permuted(value: Array, heads: int) -> Array:
    """Rows of queries or keys as llama.cpp rotates them: neighbours."""
    halves = value.reshape(heads, 2, len(value) // heads // 2, *value.shape[1:])
    return halves.swapaxes(1, 2).reshape(value.shape)


def changed(name: str, value: Array, config: Any) -> Array:
    """A tensor as the converter changes it."""
    kind = config.model_type
    if kind in ("llama", "mistral") and ".q_proj." in name:
        return permuted(value, config.num_attention_heads)
    if kind in ("llama", "mistral") and ".k_proj." in name:
        return permuted(value, config.num_key_value_heads)
    if kind in ("gemma2", "gemma3_text") and name.endswith("norm.weight"):
        return value + np.float32(1)
    if kind == "gpt2" and value.ndim == 2 and any(part in name for part in ("c_attn", "c_proj", "c_fc")):
        return value.T
    if kind == "bloom" and "query_key_value" in name:  # by head, to all queries first
        return value.reshape(config.n_head, 3, -1, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)
    return value


def model_tensors(model: Any) -> dict[str, Array]:
    """By llama.cpp's names, in float32."""
    config, found = model.config, dict[str, Array]()
    arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture(config))
    table = get_tensor_name_map(arch, config.num_hidden_layers)
    tied = set(model.all_tied_weights_keys)
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        value = changed(name, tensor.float().numpy(), config)
        if name.endswith("experts.gate_up_proj"):
            for part, half in zip(("gate", "up"), np.split(value, 2, axis=1), strict=True):
                found[f"{table.get_name(name.replace('gate_up', part))}.weight"] = half
            continue
        path, dot, ending = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, ".", "weight")
        known = table.get_name(path) or table.get_name(path.partition(".")[2])
        assert known is not None, name
        found[known + dot + ending] = value
    return found


def stored(value: Array, kind: GGMLQuantizationType, seed: int = 0) -> Raw:
    """A tensor as a file has it: vectors, and rows that are no blocks, in float32; what can't be written at random."""
    if value.ndim < 2 or value.shape[-1] % GGML_QUANT_SIZES[kind][0] or kind == GGMLQuantizationType.F32:
        return Raw(np.ascontiguousarray(value, np.float32), GGMLQuantizationType.F32)
    if kind == GGMLQuantizationType.F16:
        return Raw(value.astype(np.float16), kind)
    try:
        return Raw(quants.quantize(np.ascontiguousarray(value), kind), kind)
    except NotImplementedError:
        shape = quants.quant_shape_to_byte_shape(value.shape, kind)
        return Raw(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), kind)


# Files ----------------------------------------------------------------------------------------------------------------

Stored = Mapping[str, Raw]


def write(path: Path, keys: Mapping[str, Key], tensors: Stored) -> Path:
    """A file."""
    with path.open("wb") as file:
        file.write(packed_header(keys, {name: (raw.shape, raw.kind) for name, raw in tensors.items()}))
        for raw in tensors.values():
            data = raw.data.tobytes()
            file.write(data.ljust(align(len(data), 32), b"\0"))
    return path


def parts_of(
    model: Any, tokenizer: Any = None, kind: GGMLQuantizationType = GGMLQuantizationType.F32
) -> tuple[dict[str, Key], dict[str, Raw]]:
    """Keys and tensors of a model's file."""
    words = token_keys(tokenizer, model.config.vocab_size, model.config) if tokenizer else {}
    keys = {
        "general.architecture": Key(architecture(model.config), TEXT),
        "general.name": Key("tiny", TEXT),
        **model_keys(model.config),
        **words,
    }
    return keys, {name: stored(value, kind) for name, value in model_tensors(model).items()}


def write_model(
    path: Path,
    model: Any,
    tokenizer: Any = None,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    change: Callable[[dict[str, Key], dict[str, Raw]], object] = lambda keys, tensors: None,
) -> Path:
    """A model's file; ``change`` is given its keys and tensors before they are written."""
    keys, tensors = parts_of(model, tokenizer, kind)
    change(keys, tensors)
    return write(path, keys, tensors)


def write_split(folder: Path, count: int, keys: Mapping[str, Key], tensors: Stored, name: str = "tiny") -> list[Path]:
    """The same in several files, as llama-gguf-split makes them."""
    names, short = list(tensors), GGUFValueType.UINT16
    cuts = [round(place * len(names) / count) for place in range(count + 1)]
    found = []
    for place in range(count):
        split = {"split.no": Key(place, short), "split.count": Key(count, short)}
        split["split.tensors.count"] = Key(len(names), GGUFValueType.INT32)
        own = {each: tensors[each] for each in names[cuts[place] : cuts[place + 1]]}
        path = folder / f"{name}-{place + 1:05}-of-{count:05}.gguf"
        found.append(write(path, {**(keys if place == 0 else {}), **split}, own))
    return found
