"""A merged folder is read back as far as that goes, and holds what belongs to it, nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, Gemma3Config, Gemma3ForConditionalGeneration

from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError
from remodeler.merging import verification
from remodeler.merging.inputs import inspect_model
from remodeler.merging.job import merge
from remodeler.merging.verification import verify
from remodeler.runs.records import load_record
from remodeler.runs.units import Block
from tiny import SLIDING, tiny_model, tiny_tokenizer


def picture_model(folder: Path, seed: int) -> str:
    """Gemma 3 with eyes: no row of the family table."""
    eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"mm_tokens_per_image": 4, "image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
    config = Gemma3Config(text_config=SLIDING, vision_config=eyes | {"image_size": 28, "patch_size": 14}, **tokens)
    torch.manual_seed(seed)
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Gemma3ImageProcessor"}')
    return str(folder)


def text_model(folder: Path, seed: int) -> str:
    tiny_model("llama", seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("limit", [0, 2**26])
def test_a_large_model_is_computed_layer_by_layer(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "IN_MEMORY", limit)
    names = tuple(text_model(tmp_path / f"m{seed}", seed) for seed in range(2))
    merge(names, out=tmp_path / "out")
    results = load_record(tmp_path / "out").results
    assert (results["loaded"], results["read_back"]) == (True, ["logits"])


def test_packed_models_are_of_a_known_family(tmp_path: Path) -> None:
    source = load(text_model(tmp_path / "m", 0), device="cpu")
    save_pruned(source, [Block(1, "attention")], tmp_path / "packed", "packed")
    merge((str(tmp_path / "packed"),) * 2, out=tmp_path / "out")
    assert load_record(tmp_path / "out").results["read_back"] == ["logits"]


@pytest.mark.parametrize("limit", [0, 2**26])
def test_an_unknown_family_is_read_back_in_part(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "IN_MEMORY", limit)
    names = tuple(picture_model(tmp_path / f"m{seed}", seed) for seed in range(2))
    merge(names, out=tmp_path / "out")
    results = load_record(tmp_path / "out").results
    assert results["loaded"] is False
    assert results["read_back"] == ["tokenizer", "config", "names and shapes of all weights"]
    assert (tmp_path / "out" / "preprocessor_config.json").exists()
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")


def test_a_part_that_does_not_fit_is_found(tmp_path: Path) -> None:
    folder = Path(picture_model(tmp_path / "m", 0))
    model, _ = inspect_model(str(folder))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("gate_proj.weight"))
    save_file(weights | {name: weights[name][:2].clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights are missing or of another shape, the first: .*gate_proj"):
        verify(model, folder, 2**30, False)


def test_only_what_belongs_to_a_model_is_copied(tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    """Settings of an adapter in a base's folder made the result unloadable."""
    names = tuple(text_model(tmp_path / f"m{seed}", seed) for seed in range(2))
    first = Path(names[0])
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "TOOLS {{ messages }}"}
    tokenizer.save_pretrained(first)
    (first / "training_args.json").write_text('{"lr": 1}')
    (first / "NOTICE.txt").write_text("by us")
    merge(names, out=tmp_path / "out")
    assert "training_args.json" in " ".join(messages.text.split())
    assert not (tmp_path / "out" / "training_args.json").exists()
    assert (tmp_path / "out" / "NOTICE.txt").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tokenizer.chat_template
    told: dict[str, Any] = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["rope_theta"] == told["rope_parameters"]["rope_theta"]
    assert told["torch_dtype"] == told["dtype"] == "float32"
    load(tmp_path / "out", device="cpu")


def test_packed_models_are_computed_too(tmp_path: Path) -> None:
    for seed in range(2):
        (tmp_path / f"p{seed}").mkdir()
        save_pruned(load(text_model(tmp_path / f"m{seed}", seed)), [Block(1, "mlp")], tmp_path / f"p{seed}")
    merge((str(tmp_path / "p0"), str(tmp_path / "p1")), out=tmp_path / "out")
    results = load_record(tmp_path / "out").results
    assert (results["form"], results["loaded"], results["read_back"]) == ("packed", True, ["logits"])


def test_head_and_dtype_are_told_in_the_nested_config_too(tmp_path: Path) -> None:
    """transformers 4 asks the text's config, transformers 5 the whole one's."""
    name = picture_model(tmp_path / "m", 0)
    file = tmp_path / "m" / "config.json"
    settings = json.loads(file.read_text())
    settings["text_config"] |= {"tie_word_embeddings": False, "torch_dtype": "float32"}
    file.write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    merge((name, f"{name}/"), dtype="bfloat16", out=tmp_path / "out")
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [told["text_config"][key] for key in ("dtype", "torch_dtype")] == ["bfloat16"] * 2
    assert "dtype" not in told["vision_config"]
    assert (told["tie_word_embeddings"], told["text_config"]["tie_word_embeddings"]) == (True, True)
    assert not [key for key in load_file(tmp_path / "out" / "model.safetensors") if "lm_head" in key]
