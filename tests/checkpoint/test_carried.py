"""Layers that predict further tokens (MTP): their bytes, under the names where runtimes look for them."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from quantised_files import change, to_fp8, write_fp8
from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.model.ahead import is_ahead, renumbered
from remodeler.pruning.config import ResultConfig
from remodeler.runs.units import Block
from tiny import LAYERS, LLAMA, tiny_model, tiny_tokenizer

DEEPSEEK = (
    *("enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head", "embed_tokens"),
    *("self_attn.o_proj", "mlp.experts.0.gate_proj", "mlp.experts.1.gate_proj", "mlp.experts.0.up_proj"),
)
"""What the 61st layer of DeepSeek V3 holds, among others."""
MLA = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
WIDE = {name: value for name, value in LLAMA.items() if name not in ("head_dim", "num_key_value_heads")}
CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v3": WIDE
    | MLA
    | {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1},
    "glm4_moe": LLAMA
    | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_nextn_predict_layers": 2},
    "qwen3_next": LLAMA
    | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    | {"shared_expert_intermediate_size": 32, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    | {"linear_num_key_heads": 2, "linear_num_value_heads": 4},
}
LAYER = [Block(1, "attention"), Block(1, "mlp")]


def ahead_of(kind: str) -> dict[str, torch.Tensor]:
    """Tensors ahead, of several dtypes."""
    places = [f"model.layers.{LAYERS + number}" for number in range(CONFIGS[kind].get("num_nextn_predict_layers", 0))]
    names = [f"{place}.{part}.weight" for place in places or ["mtp", "mtp.layers.0"] for part in DEEPSEEK]
    drawn = torch.Generator().manual_seed(0)
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return {name: torch.randn(3, 2, generator=drawn).to(dtypes[n % 3]) for n, name in enumerate(names)}


def source(kind: str, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint with layers ahead, and their tensors."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **CONFIGS[kind]), dtype=torch.float32)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    ahead = ahead_of(kind)
    file = folder / "model.safetensors"
    save_file(load_file(file) | ahead, file, metadata={"format": "pt"})
    return folder, ahead


def written(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and config of a result."""
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("form", ["stock", "packed"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_layers_ahead_are_kept_byte_for_byte_behind_the_layers_that_are_left(
    kind: str, form: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, ahead = source(kind, tmp_path / "source")
    (tmp_path / "out").mkdir()
    with caplog.at_level(logging.WARNING, "remodeler"):
        checkpoint = load(folder, device="cpu")
        removed = [block for block in checkpoint.anatomy.blocks() if block.layer == 1]
        save_pruned(checkpoint, removed, tmp_path / "out", form)
    assert not [each for each in caplog.records if "left out" in each.message]
    tensors, config = written(tmp_path / "out")
    assert config["num_hidden_layers"] == LAYERS - 1
    assert config.get("num_nextn_predict_layers", 0) == CONFIGS[kind].get("num_nextn_predict_layers", 0)
    for name, value in ahead.items():
        new = name
        for number in range(LAYERS, LAYERS + 2):
            new = new.replace(f"model.layers.{number}.", f"model.layers.{number - 1}.") if new == name else new
        assert tensors[new].dtype == value.dtype
        assert torch.equal(tensors[new], value), new
    assert sum("eh_proj" in name for name in tensors) == sum("eh_proj" in name for name in ahead)


@pytest.mark.parametrize("kind", ["deepseek_v3", "qwen3_next"])
def test_dropped_layers_ahead_are_in_neither_files_nor_config(kind: str, tmp_path: Path) -> None:
    folder, _ = source(kind, tmp_path / "source")
    (tmp_path / "out").mkdir()
    checkpoint = load(folder, device="cpu")
    removed = [block for block in checkpoint.anatomy.blocks() if block.layer == 1]
    save_pruned(checkpoint, removed, tmp_path / "out", keep_ahead=False)
    tensors, config = written(tmp_path / "out")
    assert not [name for name in tensors if "eh_proj" in name or "mtp" in name]
    assert config.get("num_nextn_predict_layers", 0) == 0


def test_a_count_without_tensors_becomes_none(tmp_path: Path) -> None:
    """As in folders that transformers wrote."""
    folder, ahead = source("deepseek_v3", tmp_path / "source")
    tensors = load_file(folder / "model.safetensors")
    bare = {name: value for name, value in tensors.items() if name not in ahead}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "out").mkdir()
    save_pruned(load(folder, device="cpu"), LAYER, tmp_path / "out")
    assert written(tmp_path / "out")[1]["num_nextn_predict_layers"] == 0


def test_layers_ahead_in_fp8_are_dequantised_as_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    write_fp8(folder, "llama")
    meant: dict[str, torch.Tensor] = {}

    def add(tensors: dict[str, torch.Tensor]) -> None:
        name = f"model.layers.{LAYERS}.eh_proj.weight"
        tensors[name], tensors[f"{name}_scale_inv"], meant[name] = to_fp8(torch.randn(32, 32), (16, 16))
        tensors[f"model.layers.{LAYERS}.enorm.weight"] = meant[f"model.layers.{LAYERS}.enorm.weight"] = torch.ones(32)

    change(folder, add, num_nextn_predict_layers=1)
    (tmp_path / "out").mkdir()
    save_pruned(load(folder, device="cpu"), LAYER, tmp_path / "out", "stock")
    tensors, config = written(tmp_path / "out")
    assert config["num_nextn_predict_layers"] == 1
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    for name, value in meant.items():
        assert torch.equal(tensors[name.replace(f"layers.{LAYERS}.", "layers.3.")], value.bfloat16())
    assert not [name for name in tensors if "scale" in name]


def test_layers_ahead_go_through_a_packed_folder_and_a_streamed_one(tmp_path: Path) -> None:
    folder, ahead = source("deepseek_v3", tmp_path / "source")
    for name in ("packed", "stock"):
        (tmp_path / name).mkdir()
    once = [Block(1, "attention"), Block(2, "mlp")]
    save_pruned(load(folder, device="cpu", stream=True), once, tmp_path / "packed", "packed")
    again = load(tmp_path / "packed", device="cpu")
    save_pruned(again, [Block(1, "mlp"), Block(2, "attention")], tmp_path / "stock", "stock")
    tensors, config = written(tmp_path / "stock")
    assert (config["num_hidden_layers"], config["num_nextn_predict_layers"]) == (2, 1)
    for name, value in ahead.items():
        assert torch.equal(tensors[name.replace(f"layers.{LAYERS}.", "layers.2.")], value)


def test_names_of_layers_ahead() -> None:
    config = tiny_model("llama").config
    config.num_nextn_predict_layers = 1
    behind, inside = f"model.layers.{LAYERS}.enorm.weight", "model.layers.0.enorm.weight"
    own = ("mtp.fc.weight", "model.mtp.0.norm.weight", "model.mtp_layers.0.fc.weight", "model.mtp_block.0.mlp.weight")
    assert all(is_ahead(config, name) for name in (behind, *own))
    assert not any(is_ahead(config, name) for name in (inside, "model.smtp.weight", "visual.blocks.9.weight"))
    assert renumbered(behind, LAYERS, 2) == "model.layers.2.enorm.weight"
    assert [renumbered(name, LAYERS, 2) for name in own] == list(own)
    config.num_nextn_predict_layers = 0
    assert not is_ahead(config, behind)


def test_they_are_kept_unless_it_is_said_otherwise() -> None:
    assert ResultConfig().mtp == "keep"
