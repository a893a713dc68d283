"""Quantised checkpoints: numbers by their formats' definitions, an ordinary checkpoint written, the rest refused."""

import json
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, FineGrainedFP8Config, Mxfp4Config

from quantised_files import change, read, write_affine, write_channels, write_fp8, write_mxfp4, written
from remodeler.checkpoint.load import Checkpoint, load, look
from remodeler.checkpoint.quantised import METHODS
from remodeler.checkpoint.save import save_pruned
from remodeler.checkpoint.sizes import memory, written_bytes
from remodeler.errors import InputError
from remodeler.merging.inputs import inspect_model
from remodeler.model.files.dequantised import open_slices, refuse_scaleless
from remodeler.pruning.api import prune
from remodeler.runs.records import load_record
from remodeler.runs.units import Block
from tiny import TEXT, tiny_model

MISSING = "is missing: get the complete checkpoint"


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("fp8") / "model"
    return folder, write_fp8(folder)


@pytest.fixture(scope="module")
def mxfp4(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("mxfp4") / "model"
    return folder, write_mxfp4(folder)


def quantised(folder: Path, **config: Any) -> str:
    """A folder whose config alone says that it is quantised."""
    write_fp8(folder)
    return str(change(folder, lambda _: None, quantization_config=config))


def numbers(checkpoint: Checkpoint) -> dict[str, Tensor]:
    found: dict[str, Tensor] = checkpoint.model.state_dict()
    return found


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(found[key].float(), wanted[key].float())] == []


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("blocks", [(16, 16), (20, 12), (1, 16), (128, 128), None])
def test_fp8_is_a_number_times_the_scale_of_its_block(
    blocks: tuple[int, int] | None, dtype: str, tmp_path: Path
) -> None:
    """Of 20 x 12 the last blocks are cut off, which transformers takes for smaller blocks."""
    wanted = write_fp8(tmp_path / "model", blocks=blocks)
    found = load(tmp_path / "model", dtype=dtype, device="cpu")
    assert found.model.dtype == getattr(torch, dtype)
    assert (found.stored_dtype, found.quantised) == (torch.bfloat16, "fp8")
    assert_equal(numbers(found), wanted)


@pytest.mark.parametrize("scale", ["{}_scale", "{}.scale", "{}.qscale_weight"])
def test_scales_have_other_names_too(scale: str, tmp_path: Path) -> None:
    wanted = write_fp8(tmp_path / "model", scale=scale)
    change(
        tmp_path / "model", lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.input_scale": torch.ones(1)})
    )
    assert_equal(numbers(load(tmp_path / "model", device="cpu")), wanted)


def test_scales_of_one_byte_are_exponents(tmp_path: Path) -> None:
    folder, key = tmp_path / "model", "model.layers.0.mlp.up_proj.weight"
    write_fp8(folder)
    stored = read(folder)
    shape = stored[f"{key}_scale_inv"].shape
    change(folder, lambda tensors: tensors.update({f"{key}_scale_inv": torch.full(shape, 125, dtype=torch.uint8)}))
    assert torch.equal(numbers(load(folder, device="cpu"))[key].float(), stored[key].float() / 4)


def test_experts_in_fp8_are_joined(tmp_path: Path) -> None:
    write_fp8(tmp_path / "model", "qwen3_moe")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", quantization_config=FineGrainedFP8Config(dequantize=True), dtype=torch.bfloat16
    )
    assert_equal(numbers(load(tmp_path / "model", device="cpu")), theirs.state_dict())


def test_mxfp4_is_a_table_times_a_power_of_two(mxfp4: tuple[Path, dict[str, Tensor]]) -> None:
    folder, wanted = mxfp4
    found = load(folder, dtype="float32", device="cpu")
    assert (found.stored_dtype, found.quantised) == (torch.bfloat16, "mxfp4")
    assert_equal(numbers(found), wanted)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.bfloat16
    )
    assert_equal(numbers(found), theirs.state_dict())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_affine_numbers_are_dequantised_by_transformers(dtype: str, tmp_path: Path) -> None:
    wanted = write_affine(tmp_path / "model")
    found = load(tmp_path / "model", dtype=dtype, device="cpu")
    assert {value.dtype for value in found.model.parameters()} == {getattr(torch, dtype)}
    assert_equal(numbers(found), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compressed_tensors_where_they_are_installed(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    wanted = write_channels(tmp_path / "model")
    assert_equal(numbers(load(tmp_path / "model", dtype=dtype, device="cpu")), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_where_they_are_installed(bits: int, dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    written(tiny_model("llama", hidden_size=64, intermediate_size=128, head_dim=16), tmp_path / "plain")
    how = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=how, dtype=torch.bfloat16)
    written(model, tmp_path / "model", cast=False)
    found = load(tmp_path / "model", dtype=dtype, device="cpu")
    assert {value.dtype for value in found.model.parameters()} == {getattr(torch, dtype)}
    assert_equal(numbers(found), model.dequantize(torch.bfloat16).state_dict())


def test_it_is_said_once(fp8: tuple[Path, dict[str, Tensor]], messages: pytest.LogCaptureFixture) -> None:
    load(fp8[0], device="cpu")
    assert messages.text.count(f"{fp8[0]} is quantised (fp8, 8 bits): dequantised to bfloat16") == 1


def test_a_teacher_may_be_quantised(fp8: tuple[Path, dict[str, Tensor]]) -> None:
    look(str(fp8[0]), "causal")


# What is written ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_ordinary_checkpoint_is_written(
    method: str, dtype: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source, wanted = request.getfixturevalue(method)
    tmp_path.joinpath("out").mkdir()
    saved = save_pruned(load(source, dtype=dtype, device="cpu"), [], tmp_path / "out")
    assert saved.check.one_pass == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert (saved.checkpoint.quantised, saved.checkpoint.stored_dtype) == (None, torch.bfloat16)
    assert_equal(read(tmp_path / "out"), wanted)
    assert {value.dtype for value in read(tmp_path / "out").values()} == {torch.bfloat16}


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_prune_leaves_the_other_blocks_as_they_were(
    method: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source, wanted = request.getfixturevalue(method)
    (tmp_path / "texts.txt").write_text(TEXT)
    out = tmp_path / "out"
    prune(source, out, remove=2, texts=str(tmp_path / "texts.txt"), samples=8, length=16, device="cpu")
    record = load_record(out)
    assert (record.inputs["model"]["stored_dtype"], record.inputs["model"]["quantised"]) == ("bfloat16", method)
    found, before = read(out), {value.float().numpy().tobytes() for value in wanted.values()}
    assert {value.float().numpy().tobytes() for value in found.values()} < before
    assert load(out, device="cpu").quantised is None


def test_sizes_are_those_of_the_files_and_of_what_is_written(fp8: tuple[Path, dict[str, Tensor]]) -> None:
    checkpoint = load(fp8[0], device="cpu", dtype="float32")
    assert memory(checkpoint)["weight_bytes"] == sum(value.nbytes for value in read(fp8[0]).values())
    assert written_bytes(checkpoint) == sum(value.nbytes for value in fp8[1].values())


# Refusals -------------------------------------------------------------------------------------------------------------


def test_a_tensor_without_its_scale(tmp_path: Path) -> None:
    folder, key = tmp_path / "model", "model.layers.1.mlp.up_proj.weight"
    write_fp8(folder)
    change(folder, lambda tensors: tensors.__delitem__(f"{key}_scale_inv"))
    with pytest.raises(InputError, match=re.escape(f"{key} of {folder} is quantised (FP8) and its scale")) as error:
        load(folder, device="cpu")
    assert f"{key}_scale_inv {MISSING}" in str(error.value)


@pytest.mark.parametrize("lost", ["_blocks", "_scales"])
def test_experts_without_scales_or_blocks(lost: str, tmp_path: Path) -> None:
    folder, key = tmp_path / "model", "model.layers.1.mlp.experts.down_proj"
    write_mxfp4(folder)
    change(folder, lambda tensors: tensors.__delitem__(key + lost))
    with pytest.raises(InputError, match=re.escape(f"{key} of {folder} is quantised (MXFP4) and {key}{lost} is miss")):
        load(folder, device="cpu")


def test_other_tensors_than_experts(tmp_path: Path) -> None:
    write_mxfp4(tmp_path / "model")
    key = "model.layers.0.self_attn.q_proj"
    change(tmp_path / "model", lambda tensors: tensors.update({f"{key}_blocks": torch.zeros(1, 1, 1, 16)}))
    with pytest.raises(InputError, match=f"{key} of .* is quantised .MXFP4., which is known of experts alone"):
        load(tmp_path / "model", device="cpu")


@pytest.mark.parametrize("lost", ["scales", "qbiases"])
def test_affine_numbers_without_scales_or_biases(lost: str, tmp_path: Path) -> None:
    write_affine(tmp_path / "model")
    key = f"model.layers.1.mlp.up_proj.{lost}"
    change(tmp_path / "model", lambda tensors: tensors.__delitem__(key))
    with pytest.raises(InputError, match=f"is quantised and {key} {MISSING}"):
        load(tmp_path / "model", device="cpu")


@pytest.mark.parametrize(
    ("method", "stored", "scale"),
    [
        ("compressed-tensors", ("weight", torch.float8_e4m3fn), "weight_scale"),
        ("compressed-tensors", ("weight_packed", torch.int32), "weight_scale"),
        ("bitsandbytes", ("weight", torch.int8), "SCB"),
        ("bitsandbytes", ("weight", torch.uint8), "weight.absmax"),
    ],
)
def test_what_transformers_would_read_without_its_scale(
    method: str, stored: tuple[str, torch.dtype], scale: str, tmp_path: Path
) -> None:
    name, dtype = stored
    save_file({f"up.{name}": torch.zeros(4, 4).to(dtype)}, tmp_path / "model.safetensors")
    slices = open_slices({f"up.{name}": tmp_path / "model.safetensors"})
    with pytest.raises(InputError, match=f"up.{name} of m is quantised and up.{scale} {MISSING}"):
        refuse_scaleless("m", slices, METHODS[method].scales)
    refuse_scaleless("m", {**slices, f"up.{scale}": None}, METHODS[method].scales)


def test_scales_that_do_not_fit(tmp_path: Path) -> None:
    folder, key = tmp_path / "model", "model.layers.1.mlp.up_proj.weight"
    write_fp8(folder)
    change(folder, lambda tensors: tensors.update({f"{key}_scale_inv": torch.ones(2, 2)}))
    with pytest.raises(InputError, match=r"scales \[2, 2\] do not fit \[48, 32\] in blocks of \(16, 16\)"):
        load(folder, device="cpu")
    write_mxfp4(tmp_path / "experts")
    scales = "model.layers.1.mlp.experts.down_proj_scales"
    change(tmp_path / "experts", lambda tensors: tensors.update({scales: torch.ones(1, 2, dtype=torch.uint8)}))
    with pytest.raises(InputError, match="do not belong together"):
        load(tmp_path / "experts", device="cpu")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "awq": ({"quant_method": "awq"}, r"is quantised \(awq\), which can't be dequantised here"),
    "gptq": ({"quant_method": "gptq", "bits": 4}, r"is quantised \(gptq\), which can't be dequantised here"),
    "unknown": ({"quant_method": "magic"}, r"is quantised \(magic\), which can't be dequantised here"),
    "unnamed": ({"bits": 4}, r"is quantised \(an unnamed method\), which can't be dequantised here"),
    "compressed": (
        {"quant_method": "compressed-tensors"},
        r"\(compressed-tensors\), and the package .* is not inst",
    ),
    "bitsandbytes": ({"load_in_4bit": True}, r"\(bitsandbytes\), and the package bitsandbytes, .* is not installed"),
    "experts": ({"quant_method": "fp8", "expert_dtype": "fp4"}, r"\(fp8 with experts in fp4\), which is not known"),
}


@pytest.mark.parametrize("method", REFUSED)
def test_what_can_not_be_dequantised_is_refused_by_name(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("compressed_tensors", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, package, None)
    config, words = REFUSED[method]
    name = quantised(tmp_path / "model", **config)
    for refused in (lambda: load(name), lambda: look(name)):
        with pytest.raises(InputError, match=words):
            refused()


def test_a_package_that_is_installed_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("compressed_tensors")
    package.__spec__ = ModuleSpec("compressed_tensors", None)
    monkeypatch.setitem(sys.modules, "compressed_tensors", package)
    look(quantised(tmp_path / "model", quant_method="compressed-tensors"))


@pytest.mark.parametrize("given", [[16], [0, 16], "16", [16.5, 16]])
def test_a_block_that_is_none(given: object, tmp_path: Path) -> None:
    name = quantised(tmp_path / "model", quant_method="fp8", weight_block_size=given)
    with pytest.raises(InputError, match="two positive integers or null were expected"):
        load(name, device="cpu")


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_a_config_of_weights_that_are_not_quantised(
    method: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tmp_path.joinpath("out").mkdir()
    source = request.getfixturevalue(method)[0]
    save_pruned(load(source, device="cpu"), [Block(0, "attention")], tmp_path / "out", "portable")
    change(tmp_path / "out", lambda _: None, quantization_config={"quant_method": method})
    with pytest.raises(InputError, match=f"says {method} and no weight is stored so: remove its quantization_config"):
        load(tmp_path / "out", device="cpu")


def test_readers_of_files_refuse_it_by_name(fp8: tuple[Path, dict[str, Tensor]]) -> None:
    name = str(fp8[0])
    with pytest.raises(InputError, match=r"is quantised \(fp8\), which can't be streamed: leave `stream` out"):
        load(name, stream=True)
    with pytest.raises(InputError, match=r"is quantised \(fp8\), which is not read here: give the unquantised"):
        inspect_model(name)
