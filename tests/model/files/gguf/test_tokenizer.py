"""The tokenizer of a GGUF file cuts texts as the one that it was made from, and as llama.cpp."""

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gguf_models import FLAG, TEXT, WHOLE, parts_of, write
from llama_cpp_reference import pieces as cut_by_llama_cpp
from remodeler.errors import InputError
from remodeler.exporting.gguf.tokens import token_keys
from remodeler.model.files.gguf.header import read_header
from remodeler.model.files.gguf.tokenizer import LLAMA3, QWEN2, WAYS, read_tokenizer
from remodeler.model.files.gguf.values import Key
from remodeler.model.gguf.check import open_file
from tiny import tiny_model
from tiny_tokenizers import TEXTS, byte_level, pieces

WORDS = ["digits 1234567, it's", "Don't SHOUT'LL 12 345", "a\n\n b\t c  \r\n", "x² ½ ٣٤", "--- ... $5.00 ~|`", *TEXTS]


def file_of(folder: Path, tokenizer: PreTrainedTokenizerFast, **keys: Key) -> Path:
    """A file with a tokenizer; keys of ``tokenizer.ggml`` by name, or without one."""
    words = token_keys(tokenizer, len(tokenizer)) | {f"tokenizer.ggml.{name}": key for name, key in keys.items()}
    every, tensors = parts_of(tiny_model("llama", num_hidden_layers=1, vocab_size=len(tokenizer)))
    return write(folder / "x.gguf", every | words, tensors)


def read(path: Path) -> PreTrainedTokenizerFast:
    found = read_tokenizer(path, read_header(path))
    assert found is not None
    return found


def ids(tokenizer: PreTrainedTokenizerFast, special: bool = False) -> list[Any]:
    return [tokenizer(text, add_special_tokens=special)["input_ids"] for text in WORDS]


def remade(tokenizer: PreTrainedTokenizerFast, way: Any) -> PreTrainedTokenizerFast:
    tokenizer.backend_tokenizer.pre_tokenizer = way
    return tokenizer


def split(pattern: str) -> Any:
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_alone])


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
STEPS = {
    "gpt-2": BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
}


@pytest.mark.parametrize("way", STEPS)
def test_words_are_cut_as_the_model_cuts_them(way: str, tmp_path: Path) -> None:
    own = remade(byte_level(), STEPS[way])
    own.backend_tokenizer.model.ignore_merges = way == "llama-bpe"
    found = read(file_of(tmp_path, own))
    assert ids(found) == ids(own)
    assert [found.decode(each) for each in ids(found)] == [own.decode(each) for each in ids(own)]
    told = json.loads(found.backend_tokenizer.to_str())
    assert told["pre_tokenizer"] == json.loads(own.backend_tokenizer.to_str())["pre_tokenizer"], "so it exports again"


def test_every_way_is_a_chain_of_expressions(tmp_path: Path) -> None:
    """Each cuts a text into words without losing a letter."""
    for way in WAYS:
        found = read(file_of(tmp_path, byte_level(), pre=Key(way, TEXT)))
        assert [found.decode(each) for each in ids(found)] == WORDS, way


def test_two_ways_are_not_the_same(tmp_path: Path) -> None:
    one, two = (ids(read(file_of(tmp_path, byte_level(), pre=Key(way, TEXT)))) for way in ("gpt-2", "default"))
    assert one != two


def test_an_unknown_way_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in the way 'afmoe' \(tokenizer.ggml.pre\), which is not known here"):
        read(file_of(tmp_path, byte_level(), pre=Key("afmoe", TEXT)))


def test_whole_words_go_before_merges_and_a_text_begins_with_a_token(tmp_path: Path) -> None:
    """llama.cpp does both for Llama 3's way where the file does not say."""
    own = byte_level(start="<s>", bos_token="<s>")
    path = file_of(tmp_path, own, pre=Key("llama-bpe", TEXT))
    assert read(path).backend_tokenizer.model.ignore_merges
    header = read_header(path)
    del header.keys["tokenizer.ggml.add_bos_token"]  # type: ignore[attr-defined]
    silent = write(tmp_path / "silent.gguf", header.keys, header.tensors)
    assert read(silent)("a")["input_ids"][0] == own.bos_token_id


@pytest.mark.parametrize(("begins", "ends"), [(True, False), (False, True), (True, True), (False, False)])
def test_tokens_around_a_text_are_as_the_file_says(begins: bool, ends: bool, tmp_path: Path) -> None:
    own = byte_level(start="<s>", bos_token="<s>")
    keys = {"add_bos_token": Key(begins, FLAG), "add_eos_token": Key(ends, FLAG)}
    found = read(file_of(tmp_path, own, **keys))
    plain = found("the cat", add_special_tokens=False)["input_ids"]
    around = [own.bos_token_id] * begins + plain + [own.eos_token_id] * ends
    assert found("the cat")["input_ids"] == around


@pytest.mark.parametrize("marked", [True, False])
def test_pieces_begin_with_a_mark_where_the_file_says_so(marked: bool, tmp_path: Path) -> None:
    own = pieces(scheme="always" if marked else "never")
    path = file_of(tmp_path, own)
    found = read(path)
    for text in ("the cat", "the dogs ran to the river", "naïve 東京", " two  spaces"):
        tokens = found(text, add_special_tokens=False)["input_ids"]
        assert tokens == cut_by_llama_cpp(path, text), text
        assert found.decode(tokens) == text


@pytest.mark.parametrize("way", WAYS)
def test_llama_cpp_cuts_the_same(way: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    own = byte_level()
    path = file_of(tmp_path, own, pre=Key(way, TEXT))
    found = read(path)
    with open_file(path, 8) as model:
        cut = [list(model.tokenize(text.encode(), add_bos=False, special=True)) for text in WORDS]
    assert ids(found) == cut


def test_special_and_added_tokens_stay_whole(tmp_path: Path) -> None:
    own = byte_level()
    own.add_tokens(["<think>"])
    found = read(file_of(tmp_path, own))
    assert len(found) == len(own), "nothing of the class of the tokenizer, as its end of a text"
    text = "the <think> cat<|end|><|endoftext|>"
    assert found(text)["input_ids"] == own(text)["input_ids"]
    assert found.decode(found(text)["input_ids"], skip_special_tokens=True) == "the <think> cat<|endoftext|>"


def test_templates_are_read_by_their_names(tmp_path: Path) -> None:
    own = byte_level()
    own.chat_template = "{{ messages[0].content }}"
    assert read(file_of(tmp_path, own)).chat_template == own.chat_template
    own.chat_template = {"default": "a", "tool_use": "b"}
    assert read(file_of(tmp_path, own)).chat_template == own.chat_template


def test_no_tokenizer_and_one_of_another_kind(tmp_path: Path) -> None:
    keys, tensors = parts_of(tiny_model("llama", num_hidden_layers=1))
    bare = write(tmp_path / "bare.gguf", keys, tensors)
    assert read_tokenizer(bare, read_header(bare)) is None
    with pytest.raises(InputError, match="a tokenizer of the kind 'rwkv', gpt2 and llama are read"):
        read(file_of(tmp_path, byte_level(), model=Key("rwkv", TEXT)))


def test_a_broken_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    merges = Key([], GGUFValueType.ARRAY, TEXT)
    for fault in ({"eos_token_id": Key(9999, WHOLE)}, {"merges": Key(["x"], merges.kind, TEXT)}):
        with pytest.raises(InputError, match=r"the tokenizer of .*x\.gguf can't be read") as caught:
            read(file_of(tmp_path, byte_level(), **fault))
        assert "\n" not in str(caught.value)
