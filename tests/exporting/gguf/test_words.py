"""What of a folder goes into a GGUF file: chat templates, the steps of a tokenizer, the fields of a config."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, GGUFWriter, TokenType
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config

from remodeler.checkpoint.load import load
from remodeler.errors import InputError
from remodeler.exporting.config_fields import refuse_other_arithmetic
from remodeler.exporting.decilm.write import refuse
from remodeler.exporting.gguf.job import export_gguf, preview
from remodeler.exporting.gguf.model import raw
from remodeler.exporting.gguf.tokens import WORDS, token_keys, words_of
from tiny import tiny_checkpoint, tiny_model
from tiny_tokenizers import END, byte_level, pieces

NAMED = {"default": "D {{ messages }}", "tool-use": "T {{ tools }}", "rag": "R {{ documents }}"}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}


def keys_of(tokenizer: Any, rows: int = 400, config: Any = None) -> dict[str, Any]:
    return {name: key.value for name, key in token_keys(tokenizer, rows, config).items()}


def refusal(tokenizer: Any) -> str:
    with pytest.raises(InputError) as caught:
        token_keys(tokenizer, 500)
    return str(caught.value)


# Chat templates -------------------------------------------------------------------------------------------------------


def test_named_templates_are_named_as_gguf_names_them(tmp_path: Path) -> None:
    tokenizer = byte_level(300)
    tokenizer.chat_template = NAMED
    tiny_model("llama", 0, vocab_size=300).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    export_gguf(load(tmp_path / "m", device="cpu"), tmp_path / "m.gguf", "f32", None, check=False)
    writer = GGUFWriter(tmp_path / "w.gguf", "llama")
    writer.add_chat_template([{"name": name, "template": text} for name, text in NAMED.items()])
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    ours, theirs = (
        {name: field.contents() for name, field in GGUFReader(path).fields.items() if "chat_template" in name}
        for path in (tmp_path / "m.gguf", tmp_path / "w.gguf")
    )
    for found in (ours, theirs):
        found["tokenizer.chat_templates"] = sorted(found["tokenizer.chat_templates"])
    assert ours == theirs
    assert ours["tokenizer.chat_template"] == NAMED["default"]


def test_one_template_and_templates_without_a_default() -> None:
    tokenizer = byte_level(300)
    assert not [name for name in keys_of(tokenizer) if "chat" in name]
    tokenizer.chat_template = "X"
    assert {name: text for name, text in keys_of(tokenizer).items() if "chat" in name} == {
        "tokenizer.chat_template": "X"
    }
    tokenizer.chat_template = {"rag": "R"}
    found = {name: text for name, text in keys_of(tokenizer).items() if "chat" in name}
    assert found == {"tokenizer.chat_template.rag": "R", "tokenizer.chat_templates": ["rag"]}
    tokenizer.chat_template = {"a-b": "1", "a_b": "2"}
    assert "have one name" in refusal(tokenizer)


# Tokenizers -----------------------------------------------------------------------------------------------------------


def remade(tokenizer: PreTrainedTokenizerFast, **parts: Any) -> PreTrainedTokenizerFast:
    """The same with another step."""
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def split(pattern: str, **options: Any) -> Any:
    behaviour = options.pop("behavior", "isolated")
    return pre_tokenizers.Split(Regex(pattern), behaviour, **options)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
LLAMA, QWEN = (next(pattern for pattern, name in WORDS.items() if name == wanted) for wanted in ("llama-bpe", "qwen2"))


def test_ways_to_cut_words_are_known_by_all_their_steps() -> None:
    named = {
        "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "qwen2": pre_tokenizers.Sequence([split(QWEN), BYTES]),
        "smaug-bpe": pre_tokenizers.Sequence([split(LLAMA), BYTES]),
        "smollm": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    }
    for name, step in named.items():
        assert keys_of(remade(byte_level(300), pre_tokenizer=step))["tokenizer.ggml.pre"] == name
    whole = remade(byte_level(300), pre_tokenizer=named["smaug-bpe"])
    whole.backend_tokenizer.model.ignore_merges = True
    assert keys_of(whole)["tokenizer.ggml.pre"] == "llama-bpe", "whole words go before merges"
    whole.backend_tokenizer.pre_tokenizer = named["qwen2"]
    assert "without a name there" in refusal(whole)


@pytest.mark.parametrize(
    "steps",
    [
        [split(QWEN), pre_tokenizers.Digits(True), BYTES],
        [split(QWEN, behavior="removed"), BYTES],
        [split(QWEN, invert=True), BYTES],
        [split(QWEN), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)],
        [split(QWEN), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)],
        [split(QWEN + "|x"), BYTES],
        [pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(add_prefix_space=False)],
        [pre_tokenizers.Whitespace()],
        [BYTES],
    ],
    ids=range(9),
)
def test_a_step_more_or_another_way_is_refused(steps: list[Any]) -> None:
    assert "without a name there" in refusal(remade(byte_level(300), pre_tokenizer=pre_tokenizers.Sequence(steps)))


def test_no_step_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="without a name"):
        words_of(None)


def test_what_changes_texts_first_is_refused_by_its_name() -> None:
    for step, words in {
        normalizers.Lowercase(): "Lowercase",
        normalizers.Sequence([normalizers.NFC(), normalizers.Strip()]): "Strip",
    }.items():
        assert words in refusal(remade(byte_level(300), normalizer=step))
    assert "Lowercase" in refusal(remade(pieces(), normalizer=normalizers.Lowercase()))
    assert "Replace" in refusal(remade(pieces(), normalizer=normalizers.Replace("a", "b")))
    assert "Digits" in refusal(remade(pieces(), pre_tokenizer=pre_tokenizers.Digits()))
    assert keys_of(remade(byte_level(300), normalizer=normalizers.NFC())), "as Qwen's have"


def test_whether_a_mark_stands_in_front_is_read_off_the_steps_and_not_off_the_tokens() -> None:
    name = "tokenizer.ggml.add_space_prefix"
    never = pieces(scheme="never")
    never.add_tokens(["prepend"])
    assert keys_of(never, 500)[name] is False
    assert keys_of(pieces(scheme="first"), 500)[name] is True
    assert keys_of(pieces(scheme="always"), 500)[name] is True
    assert keys_of(pieces(), 500)[name] is True


def test_an_ending_of_words_is_refused() -> None:
    core = byte_level(300).backend_tokenizer
    core.model = models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], end_of_word_suffix="</w>")
    assert "end_of_word_suffix" in refusal(PreTrainedTokenizerFast(tokenizer_object=core))


def test_tokens_around_a_text_are_bos_and_eos_or_refused() -> None:
    def around(single: str) -> dict[str, Any]:
        tokenizer = byte_level(300, start="<s>", bos_token="<s>")
        ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", END)]
        post = processors.TemplateProcessing(single=single, special_tokens=ids)
        found = keys_of(remade(tokenizer, post_processor=post))
        return {name: found[f"tokenizer.ggml.add_{name}_token"] for name in ("bos", "eos")}

    assert around("<s> $A") == {"bos": True, "eos": False}
    assert around(f"<s> $A {END}") == {"bos": True, "eos": True}
    assert around(f"$A {END}") == {"bos": False, "eos": True}
    assert around("$A") == {"bos": False, "eos": False}
    for odd in (f"{END} $A", "$A <s>", "<s> <s> $A"):
        with pytest.raises(InputError, match="other tokens around a text"):
            around(odd)


def test_special_tokens_come_from_the_config_where_the_tokenizer_names_none() -> None:
    tokenizer = byte_level(300, mask_token="<m>")
    found = keys_of(tokenizer, 400, LlamaConfig(bos_token_id=7, eos_token_id=[3, 4], pad_token_id=9999))
    assert found["tokenizer.ggml.bos_token_id"] == 7
    assert found["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert found["tokenizer.ggml.mask_token_id"] == tokenizer.mask_token_id
    assert "tokenizer.ggml.padding_token_id" not in found, "no such row"


def test_added_tokens_are_marked_as_the_converter_marks_them() -> None:
    tokenizer = byte_level(300)
    tokenizer.add_tokens([AddedToken("<|tool|>"), AddedToken("plain"), AddedToken("[X]", special=True)])
    found = keys_of(tokenizer, 400)
    kinds = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
    assert kinds["<|tool|>"] == kinds["[X]"] == kinds[END] == TokenType.CONTROL
    assert kinds["plain"] == TokenType.USER_DEFINED
    assert kinds["[PAD399]"] == TokenType.UNUSED


# Configs --------------------------------------------------------------------------------------------------------------

ASKING: list[tuple[Any, str]] = [
    (LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "dynamic"),
    (LlamaConfig(rope_parameters=YARN | {"attention_factor": 1.0}), "attention_factor"),
    (LlamaConfig(rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}), "mscale"),
    (LlamaConfig(rope_parameters=YARN | {"truncate": False}), "truncate"),
    (LlamaConfig(rope_parameters=YARN | {"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
    (LlamaConfig(partial_rotary_factor=0.25), "partial_rotary_factor"),
    (LlamaConfig(logit_scale=0.5), "logit_scale"),
    (LlamaConfig(embedding_multiplier=12.0), "embedding_multiplier"),
    (LlamaConfig(final_logit_softcapping=30.0), "final_logit_softcapping"),
    (LlamaConfig(is_causal=False), "is_causal"),
    (LlamaConfig(no_rope_layers=[3]), "no_rope_layers"),
    (LlamaConfig(num_local_experts=8), "num_local_experts"),
    (LlamaConfig(hidden_act="gelu"), "activation gelu"),
    (LlamaConfig(sliding_window=128), "sliding window"),
    (MistralConfig(), "sliding window"),
    (Qwen2Config(use_sliding_window=True, max_window_layers=2), "sliding window"),
    (Qwen2Config(layer_types=["full_attention"] * 31 + ["sliding_attention"]), "sliding window"),
]


@pytest.mark.parametrize(("config", "words"), ASKING, ids=[f"{words}-{at}" for at, (_, words) in enumerate(ASKING)])
def test_a_field_that_a_runtime_is_not_told_is_refused_by_name(config: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        refuse_other_arithmetic(config, "m", "this file")


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(),
        MistralConfig(sliding_window=None),
        Qwen2Config(sliding_window=64),
        LlamaConfig(rope_parameters=YARN | {"beta_fast": 32, "beta_slow": 1, "truncate": True, "finetuned": True}),
        LlamaConfig(rope_parameters=YARN | {"attention_factor": 1.1386294361119891}),
        LlamaConfig(rope_theta=5e5, pretraining_tp=2, attention_bias=True, mlp_bias=True),
        LlamaConfig(rope_scaling={"type": "linear", "factor": 2.0}),
        LlamaConfig(is_llama_config=True, rope_interleaved=False, unsloth_version="1", partial_rotary_factor=1.0),
        LlamaConfig(logit_scale=1.0, embedding_multiplier=1, clip_qkv=None, num_local_experts=0, is_causal=True),
    ],
    ids=range(9),
)
def test_fields_that_change_nothing_are_taken(config: Any) -> None:
    refuse_other_arithmetic(config, "m", "this file")


class Newer(LlamaConfig):  # type: ignore[misc]
    """Llama's of a transformers to come."""

    newer: int = 0


def test_a_field_of_a_newer_transformers_is_refused_by_name() -> None:
    refuse_other_arithmetic(Newer(), "m", "this file")
    with pytest.raises(InputError, match="newer = 5"):
        refuse_other_arithmetic(Newer(newer=5), "m", "this file")


def test_llama_3s_scaling_has_a_place_in_some_architectures_only() -> None:
    rope = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    preview(tiny_checkpoint("llama", rope_parameters=rope), "f32")
    with pytest.raises(InputError, match="does not read in qwen2"):
        preview(tiny_checkpoint("qwen2", rope_parameters=rope), "f32")
    with pytest.raises(InputError, match=r"q_proj\.bias"):
        preview(tiny_checkpoint("qwen3", attention_bias=True), "f32")


def test_decilms_layout_refuses_what_its_readers_are_not_told() -> None:
    refuse(tiny_checkpoint("llama", rope_parameters=YARN | {"beta_fast": 16}))
    for options, words in [
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"logit_scale": 0.5}, "logit_scale"),
    ]:
        with pytest.raises(InputError, match=words):
            refuse(tiny_checkpoint("llama", **options))


def test_a_number_that_float16_does_not_reach_is_refused() -> None:
    large = torch.full((2, 32), 7e4)
    with pytest.raises(InputError, match="take `store='bf16'`"):
        raw(large, "f16")
    assert raw(large, "bf16").shape == (2, 32)
    assert raw(large / 2, "f16").data.max() == 35000


def test_a_number_that_a_key_does_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    model = tiny_checkpoint("llama", max_position_embeddings=2**40)
    with pytest.raises(InputError, match=r"llama\.context_length can't be written"):
        export_gguf(model, tmp_path / "m.gguf", "f32", None, check=False)
    assert list(tmp_path.iterdir()) == []
