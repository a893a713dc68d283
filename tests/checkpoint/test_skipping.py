"""Folders with per_layer_config: read as packed models, and what stock transformers does with them."""

import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import in_memory, save_pruned
from remodeler.errors import InputError
from remodeler.model.pairing import packed_places
from remodeler.model.structures import structure_of
from remodeler.runs.units import Block
from tiny import tiny_checkpoint, tiny_tokenizer, tiny_windows

REMOVED = [Block(0, "attention"), Block(2, "attention"), Block(1, "mlp")]
IDS = tiny_windows(count=2, length=12).ids
WIDTHS = {Block(3, "mlp"): tuple(range(20)), Block(1, "attention"): (0,)}


def pruned(folder: Path, name: str = "llama", removed: Sequence[Block] = REMOVED, **options: Any) -> torch.Tensor:
    """A packed folder, and the logits of the model in it."""
    saved = save_pruned(tiny_checkpoint(name), removed, folder, "packed", **options)
    with torch.no_grad():
        logits: torch.Tensor = saved.checkpoint.model(IDS).logits
    return logits


def standard(packed: Path, folder: Path) -> Path:
    """What a transformers that acts on per_layer_config will read: the fields that a packed folder carries for it."""
    told = json.loads((packed / "config.json").read_text())
    packing = told.pop("packing")
    folder.mkdir()
    for key in ("auto_map", "architectures", "model_type"):
        del told[key]
    settings = told | packing["standard"] | {"model_type": packing["source"]}
    (folder / "config.json").write_text(json.dumps(settings))
    places = packed_places(packing["kept"])
    stored = {}
    for key, tensor in load_file(packed / "model.safetensors").items():
        found = [n for n, (_, place) in enumerate(places.items()) if key.startswith(f"{packing['layers']}.{place}.")]
        # an orphan's path begins with that of the layer beside it
        number = max(found, key=lambda n: len(str(list(places.values())[n])), default=None)
        if number is None:
            stored[key] = tensor
            continue
        place = list(places.values())[number]
        stored[key.replace(f"{packing['layers']}.{place}.", f"{packing['layers']}.{number}.")] = tensor
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {}),
        ("gemma2", {}),
        ("qwen3", {}),
        ("llama", {"widths": WIDTHS}),
        ("gemma2", {"removed": [Block(n, "attention") for n in (0, 1, 3)]}),
    ],
    ids=["llama", "gemma2", "qwen3", "widths", "one attention"],
)
def test_fields_and_tensors_of_a_packed_folder_give_the_same_model(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    wanted = pruned(tmp_path / "packed", name, **options)
    again = load(standard(tmp_path / "packed", tmp_path / "standard"), dtype="float32")
    assert again.model.config.model_type == f"packed_{name}"
    with torch.no_grad():
        assert torch.equal(again.model(IDS).logits, wanted)


def test_the_fields_are_a_config_that_transformers_checks(tmp_path: Path) -> None:
    pruned(tmp_path / "packed", widths=WIDTHS)
    config = AutoConfig.from_pretrained(standard(tmp_path / "packed", tmp_path / "standard"))
    assert config.is_heterogeneous
    assert config.num_hidden_layers == 4
    assert [each.skip for each in config.per_layer_config] == [["attention"], ["mlp"], ["attention"], []]
    assert [each.intermediate_size for each in config.per_layer_config] == [48, 48, 48, 20]
    assert config.per_layer_config[1].num_key_value_heads == 1


def test_a_whole_layer_that_went_is_in_neither_form(tmp_path: Path) -> None:
    pruned(tmp_path / "packed", removed=[Block(1, "attention"), Block(1, "mlp"), Block(2, "mlp")])
    told = json.loads((standard(tmp_path / "packed", tmp_path / "standard") / "config.json").read_text())
    assert told["num_hidden_layers"] == 3
    assert told["per_layer_config"] == {"1": {"skip": ["mlp"]}}


def test_stock_transformers_builds_what_is_skipped_with_random_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Why no folder of ours has per_layer_config where transformers would read it."""
    wanted = pruned(tmp_path / "packed")
    folder = standard(tmp_path / "packed", tmp_path / "standard")
    with caplog.at_level(logging.ERROR):
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert any("self_attn" in name for name in info["missing_keys"])
    with torch.no_grad():
        assert not torch.allclose(model(IDS).logits, wanted)


def test_weights_of_skipped_blocks_that_are_stored_all_the_same_are_not_read(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    folder = tmp_path / "whole"
    model = copy.deepcopy(checkpoint.model)
    model.config.per_layer_config = {0: {"skip": ["attention"]}, 2: {"skip": ["mlp"]}}
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    found = load(folder, dtype="float32")
    with torch.no_grad(), in_memory(checkpoint.anatomy, [Block(0, "attention"), Block(2, "mlp")], {}, masks=False):
        assert torch.equal(found.model(IDS).logits, checkpoint.model(IDS).logits)


def test_a_model_read_so_is_pruned_again(tmp_path: Path) -> None:
    pruned(tmp_path / "packed")
    found = load(standard(tmp_path / "packed", tmp_path / "standard"), dtype="float32")
    saved = save_pruned(found, [Block(3, "mlp")], _made(tmp_path / "again"))
    wanted = pruned(tmp_path / "directly", removed=[*REMOVED, Block(3, "mlp")])
    with torch.no_grad():
        assert torch.equal(saved.checkpoint.model(IDS).logits, wanted)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("again", "directly")]
    assert configs[0]["packing"]["standard"] == configs[1]["packing"]["standard"]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"0": {"skip": ["router"]}}, "'router' in layer 0"),
        ({"0": {"skip": ["attention"]}, "1": {"head_dim": 4}}, "another head_dim in layer 1"),
        ({"0": {"skip": ["attention"]}, "1": {"intermediate_size": 4096}}, "intermediate_size 4096 in layer 1"),
        ({"0": {"skip": ["attention"]}, "1": {"num_attention_heads": 3}}, "num_attention_heads 3 in layer 1"),
    ],
)
def test_what_is_not_acted_on_is_refused_by_name(told: dict[str, Any], words: str, tmp_path: Path) -> None:
    pruned(tmp_path / "packed")
    folder = standard(tmp_path / "packed", tmp_path / "standard")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"per_layer_config": told, "allow_global_per_layer_attribute_access": True}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=words):
        load(folder, dtype="float32")


@pytest.mark.parametrize("how", [{"stream": True}, {"device_map": "auto"}], ids=str)
def test_it_is_read_into_the_memory_of_one_device(how: dict[str, Any], tmp_path: Path) -> None:
    pruned(tmp_path / "packed")
    with pytest.raises(InputError, match=f"leave `{next(iter(how))}` out"):
        load(standard(tmp_path / "packed", tmp_path / "standard"), **how)


def test_widths_are_what_the_blocks_keep() -> None:
    anatomy = tiny_checkpoint("llama").anatomy
    assert structure_of(anatomy, Block(3, "mlp")).groups == 48
    assert structure_of(anatomy, Block(1, "attention")).groups == 2
