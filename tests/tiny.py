"""A tiny random model of every family in the table, and a tiny real tokenizer."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from remodeler.checkpoint.load import Checkpoint
from remodeler.data.windows import IGNORED, Windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.caches import given_cache
from remodeler.model.families import FAMILIES, Family
from remodeler.model.logprobs import mean_nll
from remodeler.model.tracing import probe, trace
from remodeler.runs.units import Unit

AUTO = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}
LAYERS = 4
VOCABULARY = 300
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = TOKENS | {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "head_dim": 8,
}
SLIDING = LLAMA | {"sliding_window": 8}
GPT2 = TOKENS | {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
NEOX = {name: value for name, value in LLAMA.items() if name not in ("num_key_value_heads", "head_dim")}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "llama_4_scaling_beta": 0.1,
}

CONFIGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("llama", "qwen2", "qwen3", "gemma", "phi", "phi3", "olmo2", "granite", "cohere", "smollm3"), LLAMA
    ),
    **dict.fromkeys(("starcoder2", "stablelm", "glm4", "bitnet"), LLAMA),
    **dict.fromkeys(("mistral", "gemma2", "gemma3_text", "olmo3", "cohere2", "exaone4"), SLIDING),
    "ministral3": SLIDING | {"rope_parameters": YARN},
    "mixtral": LLAMA | {"num_local_experts": 4, "sliding_window": None},
    "qwen3_moe": LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "gpt2": GPT2,
    "gptj": GPT2 | {"rotary_dim": 8},
    "gpt_neox": NEOX,
    "opt": {k: v for k, v in NEOX.items() if k != "intermediate_size"} | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": NEOX | {"new_decoder_architecture": False, "parallel_attn": True},
    "bloom": TOKENS | {"hidden_size": 32, "n_layer": LAYERS, "n_head": 4},
    "mpt": TOKENS | {"d_model": 32, "n_layers": LAYERS, "n_heads": 4, "max_seq_len": 64},
    "bert": NEOX,
    "roberta": NEOX | {"pad_token_id": 0},
    "t5": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 3,
        "num_decoder_layers": LAYERS,
        "num_heads": 4,
    }
    | {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0},
}
BART = TOKENS | {
    "d_model": 32,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-tied": ("llama", LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "falcon-new": ("falcon", NEOX | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-sequential": ("falcon", NEOX | {"new_decoder_architecture": False, "parallel_attn": False}),
    "gpt_neox-sequential": ("gpt_neox", NEOX | {"use_parallel_residual": False}),
    "opt-post-norm": ("opt", CONFIGS["opt"] | {"do_layer_norm_before": False}),
    "bloom-post-norm": ("bloom", CONFIGS["bloom"] | {"apply_residual_connection_post_layernorm": True}),
    "stablelm-parallel": ("stablelm", LLAMA | {"use_parallel_residual": True}),
    "qwen3_moe-mixed": ("qwen3_moe", CONFIGS["qwen3_moe"] | {"mlp_only_layers": [1]}),
    "bart-encoder-decoder": ("bart", BART),
    "mbart-encoder-decoder": ("mbart", BART),
    "mistral-full": ("mistral", LLAMA | {"sliding_window": None}),
}
EVERY = [*CONFIGS, *VARIANTS]


def row_of(name: str) -> Family:
    """The row of a family or variant."""
    return FAMILIES[name if name in FAMILIES else VARIANTS[name][0]]


CAUSAL = [name for name in EVERY if row_of(name).task == "causal"]
TEXT = "the cat sat on the mat and the dog on the log. " * 12


def tiny_model(name: str, seed: int = 0, **options: Any) -> torch.nn.Module:
    """A random model of a family or variant; norms and biases are random too, so that none hides a mistake."""
    model_type, settings = VARIANTS.get(name) or (name, CONFIGS[name])
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **(settings | options))
    model = AUTO[row_of(name).task].from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tiny_anatomy(name: str, seed: int = 0, **options: Any) -> Anatomy:
    """The traced model."""
    model = tiny_model(name, seed, **options)
    row = row_of(name)
    return trace(model, row, probe(row, torch.device("cpu")))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts ``<s>`` in front."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["the cat sat on the mat and the dog on the log"] * 20, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", mask_token="<mask>"
    )


def tiny_vision_model(folder: Path, seed: int = 0, rows: int | None = None, words: tuple[str, ...] = ()) -> Path:
    """A random Gemma 3 of text and images on disk, with a tokenizer that has ``words`` besides."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    marks = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7, "mm_tokens_per_image": 4}
    torch.manual_seed(seed)
    text = SLIDING | ({} if rows is None else {"vocab_size": rows})
    config = Gemma3Config(text_config=text, vision_config=vision, **marks)
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(words))
    tokenizer.save_pretrained(folder)
    return folder


def decode(model: Any, cache: Any, parts: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Logits of parts of a text that a model reads one after the other with its cache."""
    read, logits = 0, []
    for part in parts:
        logits.append(model(part, **given_cache(model, cache, read, part)).logits)
        read += part.shape[1]
    return logits


def tiny_checkpoint(name: str, seed: int = 0, **options: Any) -> Checkpoint:
    """The traced model with its tokenizer."""
    return Checkpoint(tiny_anatomy(name, seed, **options), tiny_tokenizer(), name, stored_dtype=torch.float32)


def tiny_windows(task: str = "causal", count: int = 4, length: int = 12, seed: int = 0) -> Windows:
    """Random ids with the targets of a task."""
    ids = torch.randint(4, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))
    shifted = torch.cat([ids[:, 1:], torch.full((count, 1), IGNORED)], 1)
    if task == "masked":
        chosen = torch.arange(length) % 3 == 1
        return Windows(ids.masked_fill(chosen, 3), ids.masked_fill(~chosen, IGNORED))
    if task == "seq2seq":
        return Windows(ids, ids.clone(), decoder=torch.cat([torch.zeros(count, 1, dtype=torch.long), ids[:, :-1]], 1))
    return Windows(ids, shifted)


def plain_losses(anatomy: Anatomy, windows: Windows, units: Sequence[Unit]) -> list[float]:
    """The loss without each unit by the plain loop: take it out, run the model."""
    found = []
    for unit in units:
        with bypassed(anatomy, unit):
            found.append(mean_nll(anatomy, windows, size=2))
    return found
