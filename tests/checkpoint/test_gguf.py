"""GGUF files as models: loaded whole and layer by layer, the same in every verb as the folder that they convert to."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

import remodeler as rm
from commands import invoke
from gguf_models import TEXT, WHOLE, parts_of, write, write_model, write_split
from remodeler.checkpoint.gguf import as_folder, auto_dtype
from remodeler.checkpoint.load import Checkpoint, fingerprint, load, look, read_settings
from remodeler.checkpoint.save import save_pruned
from remodeler.checkpoint.sizes import memory, stored_size, written_bytes
from remodeler.errors import InputError
from remodeler.merging.job import merge
from remodeler.model.files.gguf.values import Key
from remodeler.runs.units import Block
from tiny import TEXT as WORDS
from tiny import tiny_model, tiny_tokenizer

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64}
"""Rows of whole blocks of the common kinds."""
CACHED = Path.home() / ".cache" / "remodeler-models"
"""Real files, where somebody brought them there."""
REAL = {"smollm2-135m-instruct": "smollm2-135m-instruct.Q4_1.gguf", "gemma-3-270m": "gemma-3-270m.Q4_K_M.gguf"}


def quantised(path: Path, seed: int = 0, kind: str = "Q4_0") -> Path:
    return write_model(path, tiny_model("llama", seed, **SMALL), tiny_tokenizer(), GGMLQuantizationType[kind])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantised(tmp_path_factory.mktemp("gguf") / "model.gguf")


@torch.no_grad()
def logits(checkpoint: Checkpoint) -> torch.Tensor:
    found: torch.Tensor = checkpoint.model(torch.arange(3, 35)[None]).logits
    return found


def saved(checkpoint: Checkpoint, folder: Path) -> Path:
    """A file as a folder, written by transformers."""
    checkpoint.model.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    return folder


# Loading --------------------------------------------------------------------------------------------------------------


def test_a_file_loads_as_a_folder_does(file: Path, tmp_path: Path) -> None:
    found = rm.load(file)
    assert found.model.dtype == torch.float32
    again = load(saved(found, tmp_path / "folder"))
    assert torch.equal(logits(found), logits(again))
    assert fingerprint(found.model) == fingerprint(again.model)
    assert found.tokenizer(WORDS)["input_ids"] == tiny_tokenizer()(WORDS)["input_ids"]
    assert found.name == str(file)
    assert found.context == 64


def test_layers_are_computed_as_a_pass_reaches_them(file: Path) -> None:
    whole, streamed = load(file), load(file, stream=True)
    assert next(streamed.model.model.layers[0].parameters()).is_meta
    assert torch.equal(logits(whole), logits(streamed))
    assert fingerprint(whole.model) == fingerprint(streamed.model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_is_computed_in_what_is_asked_for(dtype: str, file: Path) -> None:
    assert load(file, dtype=dtype).model.dtype == getattr(torch, dtype)
    assert load(file, dtype=dtype, stream=True).model.dtype == getattr(torch, dtype)


@pytest.mark.parametrize(("kind", "dtype"), [("Q4_0", "bfloat16"), ("F16", "float16"), ("BF16", "bfloat16")])
def test_what_is_computed_in_by_itself_depends_on_the_device(kind: str, dtype: str, tmp_path: Path) -> None:
    model = tiny_model("llama").half().float() if kind == "F16" else tiny_model("llama").bfloat16().float()
    path = write_model(tmp_path / "x.gguf", model, tiny_tokenizer(), GGMLQuantizationType[kind])
    assert auto_dtype(str(path), torch.device("cpu")) == torch.float32
    assert auto_dtype(str(path), torch.device("cuda")) == getattr(torch, dtype)


def test_answers_end_where_a_turn_ends(tmp_path: Path) -> None:
    keys, tensors = parts_of(tiny_model("llama"), tiny_tokenizer())
    path = write(tmp_path / "x.gguf", {**keys, "tokenizer.ggml.eot_token_id": Key(3, WHOLE)}, tensors)
    assert load(path).model.generation_config.eos_token_id == [2, 3]


def test_a_tokenizer_is_the_files_own_whatever_the_type_of_the_model(tmp_path: Path) -> None:
    """transformers' Auto class gives every Qwen2 its own class, with a token that this vocabulary has not."""
    path = write_model(tmp_path / "x.gguf", tiny_model("qwen2"), tiny_tokenizer())
    assert len(load(path).tokenizer) == 300 < len(AutoTokenizer.from_pretrained(as_folder(path)))


def test_the_folder_of_a_file_is_made_once_and_holds_no_weights(file: Path) -> None:
    folder = as_folder(file)
    assert as_folder(file) == folder
    assert not list(folder.glob("*.safetensors"))
    assert read_settings(str(file), None)["model_type"] == "llama"
    look(str(file), "causal")


def test_sizes_are_those_of_the_file(file: Path) -> None:
    checkpoint = load(file)
    told = memory(checkpoint)
    assert told["weight_bytes"] == stored_size(checkpoint).bytes < told["memory_bytes"]
    assert told["computed_in"] == "float32"
    assert written_bytes(checkpoint) == 4 * told["parameters"]


# Saving ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["stock", "packed", "portable"])
@pytest.mark.parametrize("stream", [False, True])
def test_it_is_saved_in_every_form(form: Any, stream: bool, file: Path, tmp_path: Path) -> None:
    """The reload is compared in the saving; transformers refuses to save what it read from such a file."""
    gone = [Block(1, "attention"), Block(1 if form == "stock" else 2, "mlp")]
    kept = save_pruned(load(file, stream=stream), gone, tmp_path, form)
    assert kept.check.one_pass == 0
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert AutoTokenizer.from_pretrained(tmp_path)(WORDS)["input_ids"] == tiny_tokenizer()(WORDS)["input_ids"]


@pytest.mark.parametrize(("kind", "written"), [("F16", "float16"), ("BF16", "bfloat16"), ("Q8_0", "float32")])
def test_a_result_is_written_in_what_holds_the_numbers(kind: str, written: str, tmp_path: Path) -> None:
    model = tiny_model("llama", **SMALL)
    half = model.bfloat16().float() if kind == "BF16" else model.half().float()
    path = write_model(tmp_path / "x.gguf", half, tiny_tokenizer(), GGMLQuantizationType[kind])
    (tmp_path / "out").mkdir()
    save_pruned(load(path), [Block(1, "mlp")], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == written


# Merging --------------------------------------------------------------------------------------------------------------


def test_a_merge_of_files_is_the_merge_of_their_folders(tmp_path: Path) -> None:
    files = [quantised(tmp_path / f"{name}.gguf", seed) for name, seed in (("one", 0), ("two", 1))]
    folders = [saved(load(each), tmp_path / each.stem) for each in files]
    merge(files, out=tmp_path / "a", method="slerp", t=0.3)
    merge(folders, out=tmp_path / "b", method="slerp", t=0.3)
    merge([files[0], folders[1]], out=tmp_path / "c", method="slerp", t=0.3)
    one, two, mixed = (fingerprint(load(tmp_path / name).model) for name in "abc")
    assert one == two == mixed


def test_one_file_alone_becomes_its_folder(file: Path, tmp_path: Path) -> None:
    merge([file], out=tmp_path / "folder", method="linear")
    assert fingerprint(load(tmp_path / "folder").model) == fingerprint(load(file).model)


def test_adapters_are_not_written_for_a_file(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="peft loads no adapters onto a GGUF file"):
        rm.recover(str(file), out=tmp_path / "out", merge=False)


# Errors ---------------------------------------------------------------------------------------------------------------


def broken(folder: Path) -> dict[str, str]:
    """Files that hold no model, and what is said of each."""
    whole = quantised(folder / "whole.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (folder / "header.gguf").write_bytes(whole[:100])
    (folder / "empty.gguf").touch()
    (folder / "text.gguf").write_text("no model")
    keys, tensors = parts_of(tiny_model("llama"))
    write(folder / "mute.gguf", keys, tensors)
    write(folder / "other.gguf", {**keys, "general.architecture": Key("rwkv7", TEXT)}, tensors)
    write(folder / "lora.gguf", {**keys, "general.type": Key("adapter", TEXT)}, tensors)
    lacking = {name: raw for name, raw in tensors.items() if name != "blk.2.ffn_up.weight"}
    write(folder / "lacking.gguf", keys, lacking)
    write_split(folder, 2, keys, tensors)[1].unlink()
    return {
        "nothing.gguf": "nothing.gguf can't be read (No such file or directory)",
        "cut.gguf": "is no whole GGUF file",
        "header.gguf": "is no whole GGUF file",
        "empty.gguf": "is no whole GGUF file (it is empty)",
        "text.gguf": "does not begin with GGUF",
        "mute.gguf": "mute.gguf has no tokenizer",
        "other.gguf": "is of the architecture 'rwkv7'",
        "lora.gguf": "is an adapter",
        "lacking.gguf": "weights that the model needs are not in",
        "tiny-00001-of-00002.gguf": "tiny-00002-of-00002.gguf is not there, part 2 of 2",
    }


def test_every_fault_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = broken(tmp_path)
    Path("texts.txt").write_text(WORDS)
    before = sorted(os.listdir())
    for name, words in told.items():
        for verb in (["evaluate"], ["prune", "--remove", "1", "--out", "out"]):
            ended = invoke([*verb[:1], name, *verb[1:], "--texts", "texts.txt"])
            assert (ended.exit_code, words in ended.stderr) == (2, True), (name, ended.stderr)
            assert ended.stderr.count("remodel: ") == 1
    assert sorted(os.listdir()) == before


def test_a_revision_of_a_file_is_refused(file: Path) -> None:
    with pytest.raises(InputError, match=r"`revision` main was given for .*which has none"):
        load(file, revision="main")


def test_a_folder_with_a_file_in_it_says_to_give_the_file(file: Path) -> None:
    with pytest.raises(InputError, match=rf"give the file, {file}"):
        load(file.parent)


def test_nothing_is_said_where_nothing_is_amiss(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load(file)
    assert caplog.records == []


# Real files -----------------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("folder", REAL)
def test_a_real_file_is_the_folder_that_transformers_makes_of_it(folder: str) -> None:
    if not (CACHED / REAL[folder]).is_file():
        pytest.skip("no real GGUF files on this machine")
    file, theirs = load(CACHED / REAL[folder], dtype="bfloat16"), load(CACHED / folder)
    assert fingerprint(file.model) == fingerprint(theirs.model)
    if "smollm" in folder:  # transformers does not know that it cuts numbers into digits
        digits = pre_tokenizers.Digits(individual_digits=True)
        core = theirs.tokenizer.backend_tokenizer
        core.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    text = (Path(__file__).parents[2] / "README.md").read_text()
    assert file.tokenizer(text)["input_ids"] == theirs.tokenizer(text)["input_ids"]
