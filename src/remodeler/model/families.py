"""Table: the model types that work, what tracing can't know of them; and what configs call their numbers.

The blocks of a decoder are found in what its layers add to the residual stream (:mod:`remodeler.model.found_parts`), so
most types are no more than a name here. A row is written for encoders, whose norms lie on the stream, and for layers
that add the residual inside their modules: it names the parts, and which norm belongs to which block, whether branches
run in parallel and what they return is traced still (:mod:`remodeler.model.named_parts`).

All that is known of a family by its name stands here: to add one, try it with ``scripts/model_types.py``, add its name
where it works, and a line in ``CONFIGS`` where its config calls things otherwise than nearly all do. (What llama.cpp
and DeciLM call a family is theirs to say, and stands in :mod:`remodeler.exporting` and
:mod:`remodeler.model.files.gguf`.) ``tests/model/test_families.py`` and ``test_model_types.py`` then hold it to the
defining equation *bypassing a block equals zeroing its output projection*, to cached decoding, and to the forms it can
be saved in.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from remodeler.errors import InputError
from remodeler.runs.units import Kind

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
    attention_in: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value", "Wqkv")
    """Projections of query, key and value inside the attention, in this order; or the one that holds all three."""
    qkv: Literal["stacked", "by head"] = "stacked"
    """How one projection holds all three: all queries first, or query, key and value of the first head first."""
    mlp_in: tuple[str, ...] = (
        *("gate_proj", "up_proj", "gate_up_proj", "fc1", "fc_in", "c_fc", "w1", "w3", "dense_h_to_4h", "Wi"),
        "",
    )
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
    depth: str = ""
    """What the config calls its number of layers, in a model of several lists."""
    norms: tuple[tuple[str, Kind], ...] = ()
    """Norms and the blocks they go with, where some lie on the stream: who was fed by whom does not tell it there."""


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
    unpackable: str = ""
    """Why no layer can be numbered anew, where that is so."""
    traced: bool = False
    """Whether its blocks are found in what the layers add to the residual stream, and not by names."""
    wrapper: bool = False
    """Whether it is the text part of a model of text and images."""


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

_BLOOM = _decoder(Stack("transformer.h", attention="self_attention", **_FUSED, **_H_TO_4H))
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
_ENC_DEC: dict[str, Any] = {"cross": "layer.1", "cross_out": "EncDecAttention.o"}
_T5 = Family(
    (
        Stack("encoder.block", depth="num_layers", mlp=("layer.1",), **_WI_WO),
        Stack("decoder.block", depth="num_decoder_layers", mlp=("layer.2",), **_ENC_DEC, **_WI_WO),
    ),
    "decoder",
    "seq2seq",
    fixed_first_attention="it owns the relative position table that all layers of its stack use",
)
_FC: dict[str, Any] = {"attention_out": "out_proj", "mlp": ("fc1", "fc2"), "mlp_in": ("",), "mlp_out": ("",)}
_CROSS: dict[str, Any] = {"cross": "encoder_attn", "cross_out": "out_proj"}
_NORMS: tuple[tuple[str, Kind], ...] = (("self_attn_layer_norm", "attention"), ("final_layer_norm", "mlp"))
_ALL_NORMS: tuple[tuple[str, Kind], ...] = (*_NORMS, ("encoder_attn_layer_norm", "cross"))
_BART = Family(
    (
        Stack("model.encoder.layers", depth="encoder_layers", norms=_NORMS, **_FC),
        Stack("model.decoder.layers", depth="decoder_layers", norms=_ALL_NORMS, **_FC, **_CROSS),
    ),
    "model.decoder",
    "seq2seq",
)
BOTH = "-encoder-decoder"
"""Behind the names of types whose decoder is a language model of its own, too: those have two rows."""

TRACE = Family((Stack(""),), "", traced=True)
"""A decoder of which nothing needs to be named."""
WRAPPER = replace(TRACE, wrapper=True)
"""The text part of a model of text and images (:mod:`remodeler.model.wrappers`)."""
_EXPERTS = replace(TRACE, experts=True)
_BY_HEAD = replace(TRACE, stacks=(Stack("", qkv="by head"),))

_DENSE = """
afmoe apertus apertus1p5_text arcee axk1 axk2 bamba bart beam bigbird_pegasus biogpt bitnet blenderbot
blenderbot-small codegen cohere cohere2 cohere_compass_text ctrl cwm diffllama doge ernie4_5 exaone exaone4 falcon_h1
falcon_mamba gemma gemma2 gemma3_text glm glm4 gpt-sw3 gpt2 gpt_bigcode gpt_neo gptj granite granite_swa helium
hunyuan_v1_dense hyperclovax internlm3 iquestcoder jais2 lfm2 lfm3 llama mamba mamba2 marian mbart minicpm3 ministral
ministral3 mistral modernbert-decoder mvp nanochat nemotron olmo olmo2 olmo3 olmo_hybrid opt pegasus persimmon phi
phi3 plbart qwen2 qwen3 qwen3_5_text seed_oss smollm3 stablelm starcoder2 trocr vaultgemma whisper xglm
"""
"""Decoders whose MLPs are dense: of these nothing needs to be named."""
_SPARSE = """
aria_text bailing_hybrid cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 dots1 dots3_note_text ernie4_5_moe
exaone_moe flex_olmo flint glm4_moe glm4_moe_lite glm_moe_dsa gpt_oss granitemoe granitemoe_swa granitemoehybrid
granitemoeshared hunyuan_v1_moe hy_v3 hy_v4 inkling_text jamba jetmoe kimi_linear kolibri1 laguna lara_mini lfm2_moe
llama4_text mellum mimo_v2_flash minimax_m2 minimax_m3_vl_text mixtral nemotron_h olmoe phimoe qwen2_moe
qwen3_5_moe_text qwen3_moe qwen3_next sarvam_mla sarvam_moe solar_open
"""
"""The same, and their MLPs may be mixtures of experts."""
_BARTS = "bart blenderbot blenderbot-small marian mbart pegasus plbart"
"""Encoder-decoder models that look like BART."""

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(_DENSE.split(), TRACE),
    **dict.fromkeys(_SPARSE.split(), _EXPERTS),
    **dict.fromkeys(("gpt_neox", "gpt_neox_japanese", "falcon"), _BY_HEAD),
    "gemma4_text": replace(TRACE, unpackable="its layers read embeddings of their own, by number"),
    "gemma4_unified_text": TRACE,
    "minimax": replace(_EXPERTS, unpackable="its cache counts tokens in the first layer, which must attend"),
    "zamba": replace(TRACE, unpackable="its layers share an attention, by number"),
    "zamba2": replace(TRACE, unpackable="its layers share an attention, by number"),
    "zaya": replace(_EXPERTS, unpackable="its routers read those of the layer before"),
    "bloom": _BLOOM,
    "mpt": _MPT,
    **dict.fromkeys(("t5", "mt5"), _T5),
    "umt5": replace(_T5, fixed_first_attention=""),
    **{f"{name}{BOTH}": _BART for name in _BARTS.split()},
    "m2m_100": _BART,
    **dict.fromkeys(("bert", "megatron-bert"), _bert("bert")),
    **dict.fromkeys(("roberta", "camembert", "xlm-roberta", "xlm-roberta-xl"), _bert("roberta")),
    "data2vec-text": _bert("data2vec_text"),
    "electra": _bert("electra"),
    "ernie": _bert("ernie"),
    "rembert": _bert("rembert"),
    "roberta-prelayernorm": _bert("roberta_prelayernorm"),
    "roc_bert": _bert("roc_bert"),
    "roformer": _bert("roformer"),
}


def unpacked_type(model_type: str) -> str:
    """A ``model_type`` as it was before pruning."""
    return model_type.removeprefix(PACKED_PREFIX)


def family(model_type: str, like: str | None = None) -> Family:
    """The row of a ``model_type``; ``like`` names another row for remote code whose layers look like it.

    Raises:
        InputError: for a name that is in no row.
    """
    name = like or unpacked_type(model_type)
    if name in FAMILIES:
        return FAMILIES[name]
    others = f"{len(FAMILIES)} others are (docs/reference/model_types.md)"
    if like:
        raise InputError(f"`family` {like!r} is unknown, {others}: choose one of those")
    raise InputError(
        f"model type {name!r} is not known here, {others}: name the family its layers look like with `family`"
    )


# Configs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConfigNames:
    """What the config of a model type calls its numbers, where there are several names the first that it has."""

    depth: tuple[str, ...] = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
    context: tuple[str, ...] = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    """The longest window, if it is above 0: XLNet, which has no limit, says -1."""
    behind_padding: bool = False
    """Whether positions are counted from behind the padding token's id, so that as many of them are never used."""
    channels: tuple[str, ...] = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    """Of an MLP: all names that it has."""
    heads: tuple[str, ...] = ("num_attention_heads", "num_key_value_heads", "head_dim", "n_head", "num_heads")
    """What cuts the rows of queries, keys and values into heads."""
    leading: tuple[str, ...] = (
        "first_k_dense_replace",
        "num_dense_layers",
        "max_window_layers",
        "moe_layer_start_index",
    )
    """How many layers are of another kind, counted from the first."""
    trailing: tuple[str, ...] = ("num_kv_shared_layers",)
    """The same from the last."""
    numbered: tuple[str, ...] = (
        *("mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "moe_layers", "hybrid_layer_ids"),
        *("local_layer_ids", "cross_attention_layers", "ple_layer_ids"),
    )
    """Lists of the numbers of layers that are of another kind."""
    ahead: tuple[str, ...] = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
    """How many layers predict tokens further on (multi-token prediction)."""
    spelled: tuple[str, ...] = ()
    """A list of repeated patterns of layers, and what it is spelled out as."""
    lent: tuple[tuple[str, str, str], ...] = (("indexer_types", "full", "shared"),)
    """Lists that say which layers use what the attention before them found, as the tokens that an indexer selects:
    the list, what it calls an attention that finds it, and one that uses it."""
    scaled_by_layer: str = "scale_attn_by_inverse_layer_idx"
    """Set where attentions are scaled by their layer's number, so that no layer can take another's place."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Names of transformers 5, each with what transformers 4 calls it."""
    full_rope: bool = False
    """Whether transformers 4 knows the type, and reads the rotary embedding of full attentions at the top."""
    sliding_base: str = ""
    """What transformers 4 calls the rotary base of attentions within a window, where that is another one."""
    long_rope: tuple[str, ...] = ()
    """All that transformers 4 takes in ``rope_scaling`` of longrope, where it reads the rest at the top."""


_GEMMA3 = ConfigNames(full_rope=True, sliding_base="rope_local_base_freq")
_ROBERTA = ConfigNames(behind_padding=True)

CONFIGS: dict[str, ConfigNames] = {
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma3n": _GEMMA3,
    "gemma3n_text": _GEMMA3,
    "olmo3": ConfigNames(full_rope=True),
    "gpt_neo": ConfigNames(spelled=("attention_types", "attention_layers")),
    "gpt_neox": ConfigNames(renamed=(("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct"))),
    "phi3": ConfigNames(long_rope=("type", "short_factor", "long_factor")),
    "qwen3_moe": ConfigNames(renamed=(("num_local_experts", "num_experts"),)),
}
"""By model type, also of models that are no family here: merges and audits read those too."""


def config_names(model_type: Any) -> ConfigNames:
    """What a config of that type calls its numbers."""
    return CONFIGS.get(str(model_type), ConfigNames())
