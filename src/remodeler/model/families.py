"""Table: what each model family calls its layer list, attention and MLP; and what configs call their numbers.

A row only names parts. Which norm belongs to which block, whether a residual is added inside or outside, whether the
branches run in parallel and what they return is traced from one forward pass (:mod:`remodeler.model.tracing`).

All that is known of a family by its name stands here: to add one, add a row, and a line in ``CONFIGS`` where its config
calls things otherwise than nearly all do. (What llama.cpp and DeciLM call a family is theirs to say, and stands in
:mod:`remodeler.exporting` and :mod:`remodeler.model.files.gguf`.) ``tests/model/test_families.py`` then holds the row
to the defining equation *bypassing a block equals zeroing its output projection*, to cached decoding, and to the forms
it can be saved in.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from remodeler.errors import InputError

Task = Literal["causal", "masked", "seq2seq"]
PACKED_PREFIX = "packed_"
_HEADS = ("num_heads", "num_attention_heads", "n_heads")


@dataclass(frozen=True)
class Stack:
    """One list of layers, all alike. Names are paths: of the list inside the model, of the rest inside a layer."""

    layers: str
    attention: str = "self_attn"
    attention_out: str = "o_proj"
    """Where the attention's output projection lies, inside the attention."""
    mlp: tuple[str, ...] = ("mlp",)
    """The MLP, or the modules that run one after the other where a layer has no MLP module of its own."""
    mlp_out: tuple[str, ...] = ("down_proj", "experts.down_proj")
    """Output projections inside the last of ``mlp``, those that exist; an empty path is the module itself."""
    cross: str = ""
    """Cross-attention of a decoder that reads an encoder."""
    cross_out: str = ""
    attention_in: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "qkv_proj")
    """Projections of query, key and value inside the attention, in this order; or the one that holds all three."""
    qkv: Literal["stacked", "by head"] = "stacked"
    """How one projection holds all three: all queries first, or query, key and value of the first head first."""
    mlp_in: tuple[str, ...] = ("gate_proj", "up_proj", "gate_up_proj")
    """Input projections inside the first of ``mlp``, those that exist; an empty path is the module itself."""
    head_size: tuple[str, ...] = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim")
    """What the attention, or the module in it that attends, calls the size of a head: a config may leave it out."""
    counts: tuple[str, ...] = (
        *(*_HEADS, "num_key_value_heads", "num_kv_heads"),
        *("all_head_size", "inner_dim", "split_size", "intermediate_size", "ffn_dim"),
    )
    """What modules call the number of their heads or channels, and widths that are a multiple of it."""
    query_counts: tuple[str, ...] = (*_HEADS, "num_key_value_groups")
    """The same where all query heads share one key-value head, which stays."""


@dataclass(frozen=True)
class Family:
    """Where a ``model_type`` keeps its parts."""

    stacks: tuple[Stack, ...]
    trunk: str
    """The module whose first output is what the head reads."""
    task: Task = "causal"
    fixed_first_attention: str = ""
    """Why the first attention of each stack can't be removed, where that is so."""
    experts: bool = False
    """Whether its MLPs may be mixtures of experts."""


def _decoder(stack: Stack) -> Family:
    """A row for a decoder: the trunk is the module that holds the layer list."""
    return Family((stack,), stack.layers.rpartition(".")[0])


def _bert(prefix: str) -> Family:
    stack = Stack(
        f"{prefix}.encoder.layer",
        attention="attention",
        attention_in=("self.query", "self.key", "self.value"),
        attention_out="output.dense",
        mlp=("intermediate", "output"),
        mlp_in=("dense",),
        mlp_out=("dense",),
    )
    return Family((stack,), prefix, "masked")


_H_TO_4H: dict[str, Any] = {"mlp_in": ("dense_h_to_4h",), "mlp_out": ("dense_4h_to_h",)}
_FUSED: dict[str, Any] = {"attention_in": ("query_key_value",), "attention_out": "dense", "qkv": "by head"}
_WI_WO: dict[str, Any] = {
    "attention": "layer.0",
    "attention_in": tuple(f"SelfAttention.{name}" for name in "qkv"),
    "attention_out": "SelfAttention.o",
    "mlp_in": tuple(f"DenseReluDense.{name}" for name in ("wi", "wi_0", "wi_1")),
    "mlp_out": ("DenseReluDense.wo",),
}

LLAMA = _decoder(Stack("model.layers"))
_PHI = _decoder(Stack("model.layers", attention_out="dense", mlp_in=("fc1",), mlp_out=("fc2",)))
_STARCODER = _decoder(Stack("model.layers", mlp_in=("c_fc",), mlp_out=("c_proj",)))
_GPT2 = _decoder(
    Stack(
        "transformer.h",
        attention="attn",
        attention_in=("c_attn",),
        attention_out="c_proj",
        mlp_in=("c_fc",),
        mlp_out=("c_proj",),
    )
)
_GPTJ = _decoder(
    Stack("transformer.h", attention="attn", attention_out="out_proj", mlp_in=("fc_in",), mlp_out=("fc_out",))
)
_NEOX = _decoder(Stack("gpt_neox.layers", attention="attention", **_FUSED, **_H_TO_4H))
_OPT = _decoder(
    Stack("model.decoder.layers", attention_out="out_proj", mlp=("fc1", "fc2"), mlp_in=("",), mlp_out=("",))
)
_FALCON = _decoder(Stack("transformer.h", attention="self_attention", **_FUSED, **_H_TO_4H))
_MPT = _decoder(
    Stack(
        "transformer.blocks",
        attention="attn",
        attention_in=("Wqkv",),
        attention_out="out_proj",
        mlp=("ffn",),
        mlp_in=("up_proj",),
        mlp_out=("down_proj",),
    )
)
_T5 = Family(
    (
        Stack("encoder.block", mlp=("layer.1",), **_WI_WO),
        Stack("decoder.block", mlp=("layer.2",), cross="layer.1", cross_out="EncDecAttention.o", **_WI_WO),
    ),
    "decoder",
    "seq2seq",
    fixed_first_attention="it owns the relative position table that all layers of its stack use",
)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "ministral3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "phi": _PHI,
    "phi3": LLAMA,
    "olmo2": LLAMA,
    "olmo3": LLAMA,
    "granite": LLAMA,
    "cohere": LLAMA,
    "cohere2": LLAMA,
    "smollm3": LLAMA,
    "starcoder2": _STARCODER,
    "stablelm": LLAMA,
    "glm4": LLAMA,
    "exaone4": LLAMA,
    "bitnet": LLAMA,
    "mixtral": replace(LLAMA, experts=True),
    "qwen3_moe": replace(LLAMA, experts=True),
    "gpt2": _GPT2,
    "gptj": _GPTJ,
    "gpt_neox": _NEOX,
    "opt": _OPT,
    "falcon": _FALCON,
    "bloom": _FALCON,
    "mpt": _MPT,
    "bert": _bert("bert"),
    "roberta": _bert("roberta"),
    "t5": _T5,
}


def unpacked_type(model_type: str) -> str:
    """A ``model_type`` as it was before pruning."""
    return model_type.removeprefix(PACKED_PREFIX)


def family(model_type: str, like: str | None = None) -> Family:
    """The row of a ``model_type``; ``like`` names another row for remote code whose layers look like it.

    Raises:
        InputError: for a name that is in no row, with the list of those that are.
    """
    name = like or unpacked_type(model_type)
    if name in FAMILIES:
        return FAMILIES[name]
    known = ", ".join(FAMILIES)
    advice = (
        "name the family its layers look like with `family`" if like is None else "choose one of these for `family`"
    )
    raise InputError(f"model type {name!r} is not known here ({known}): {advice}")


# Configs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConfigNames:
    """What the config of a model type calls its numbers, where there are several names the first that it has."""

    depth: tuple[str, ...] = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    context: tuple[str, ...] = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    """The longest window, if it is above 0: XLNet, which has no limit, says -1."""
    behind_padding: bool = False
    """Whether positions are counted from behind the padding token's id, so that as many of them are never used."""
    channels: tuple[str, ...] = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    """Of an MLP: all names that it has."""
    heads: tuple[str, ...] = ("num_attention_heads", "num_key_value_heads", "head_dim", "n_head", "num_heads")
    """What cuts the rows of queries, keys and values into heads."""
    scaled_by_layer: str = "scale_attn_by_inverse_layer_idx"
    """Set where attentions are scaled by their layer's number, so that no layer can take another's place."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Names of transformers 5, each with what transformers 4 calls it."""
    sliding_base: str = ""
    """What transformers 4 calls the rotary base of attentions within a window, where that is another one."""
    long_rope: tuple[str, ...] = ()
    """All that transformers 4 takes in ``rope_scaling`` of longrope, where it reads the rest at the top."""


_GEMMA3 = ConfigNames(sliding_base="rope_local_base_freq")
_ROBERTA = ConfigNames(behind_padding=True)

CONFIGS: dict[str, ConfigNames] = {
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma3n": _GEMMA3,
    "gemma3n_text": _GEMMA3,
    "gpt_neox": ConfigNames(renamed=(("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct"))),
    "phi3": ConfigNames(long_rope=("type", "short_factor", "long_factor")),
    "qwen3_moe": ConfigNames(renamed=(("num_local_experts", "num_experts"),)),
}
"""By model type, also of models that are no family here: merges and audits read those too."""


def config_names(model_type: Any) -> ConfigNames:
    """What a config of that type calls its numbers."""
    return CONFIGS.get(str(model_type), ConfigNames())
