"""Quantised checkpoints of tiny models, and the numbers that they stand for by the definition of their formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tiny import LLAMA, tiny_model, tiny_tokenizer

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
LARGEST = 448.0
"""Of float8_e4m3fn."""
GPT_OSS: dict[str, Any] = LLAMA | {"num_local_experts": 4, "intermediate_size": 64, "sliding_window": 8}


def read(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def change(folder: Path, changed: Callable[[dict[str, Tensor]], None], **fields: Any) -> Path:
    """Change the tensors and the config of a folder in place."""
    tensors = read(folder)
    changed(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def written(model: torch.nn.Module, folder: Path, cast: bool = True) -> Path:
    whole: Any = model.bfloat16() if cast else model
    whole.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


# FP8 ------------------------------------------------------------------------------------------------------------------


def to_fp8(values: Tensor, blocks: tuple[int, int] | None) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix in FP8, its scales, and what both stand for, block by block."""
    rows, columns = blocks or values.shape
    stored, meant = torch.empty(values.shape, dtype=torch.float8_e4m3fn), torch.empty(values.shape)
    scales = torch.empty(-(-values.shape[0] // rows), -(-values.shape[1] // columns))
    for row in range(scales.shape[0]):
        for column in range(scales.shape[1]):
            block = slice(row * rows, (row + 1) * rows), slice(column * columns, (column + 1) * columns)
            scale = values[block].abs().max() / LARGEST
            stored[block] = (values[block] / scale).to(torch.float8_e4m3fn)
            scales[row, column], meant[block] = scale, stored[block].float() * scale
    return stored, scales if blocks else scales.reshape(()), meant.bfloat16()


def write_fp8(
    folder: Path, family: str = "llama", blocks: tuple[int, int] | None = (16, 16), scale: str = "{}_scale_inv"
) -> dict[str, Tensor]:
    """A checkpoint with its projections in FP8; what its tensors stand for."""
    meant: dict[str, Tensor] = {}

    def quantise(tensors: dict[str, Tensor]) -> None:
        for key, value in list(tensors.items()):
            meant[key] = value
            if value.ndim == 2 and "proj" in key:
                name = scale.format(key if scale.startswith("{}_") else key.removesuffix(".weight"))
                tensors[key], tensors[name], meant[key] = to_fp8(value.float(), blocks)

    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": blocks}
    change(written(tiny_model(family), folder), quantise, quantization_config=config)
    return meant


def write_channels(folder: Path) -> dict[str, Tensor]:
    """A checkpoint of compressed-tensors in FP8, with a scale for every row; what its tensors stand for."""
    meant: dict[str, Tensor] = {}

    def quantise(tensors: dict[str, Tensor]) -> None:
        for key, value in list(tensors.items()):
            meant[key] = value
            if value.ndim == 2 and "proj" in key:
                tensors[key], tensors[f"{key}_scale"], meant[key] = to_fp8(value.float(), (1, value.shape[1]))

    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
    config = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    change(written(tiny_model("llama"), folder), quantise, quantization_config=config)
    return meant


def write_affine(folder: Path, group: int = 16) -> dict[str, Tensor]:
    """A checkpoint in affine numbers of 4 bits, as for Metal; what its tensors stand for."""
    meant: dict[str, Tensor] = {}

    def quantise(tensors: dict[str, Tensor]) -> None:
        for key, value in list(tensors.items()):
            meant[key] = value
            if value.ndim == 2 and "proj" in key:
                codes, groups = torch.randint(16, value.shape), (value.shape[0], value.shape[1] // group)
                scales, biases = torch.rand(groups).bfloat16(), torch.randn(groups).bfloat16()
                packed = torch.stack([codes[:, place::8] << 4 * place for place in range(8)]).sum(0)
                path = key.removesuffix("weight")
                tensors |= {key: packed.to(torch.uint32), f"{path}scales": scales, f"{path}qbiases": biases}
                wide = [each.float().repeat_interleave(group, 1) for each in (scales, biases)]
                meant[key] = (codes * wide[0] + wide[1]).bfloat16()

    config = {"quant_method": "metal", "bits": 4, "group_size": group}
    change(written(tiny_model("llama"), folder), quantise, quantization_config=config)
    return meant


# MXFP4 ----------------------------------------------------------------------------------------------------------------


def write_mxfp4(folder: Path) -> dict[str, Tensor]:
    """A tiny gpt-oss with random experts in MXFP4; what its tensors stand for."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_oss", **GPT_OSS))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    meant: dict[str, Tensor] = {}

    def quantise(tensors: dict[str, Tensor]) -> None:
        for key, value in list(tensors.items()):
            meant[key] = value
            if key.endswith(("experts.gate_up_proj", "experts.down_proj")):
                del tensors[key]
                codes, exponents, meant[key] = random_mxfp4(tuple(value.shape))
                tensors[f"{key}_blocks"], tensors[f"{key}_scales"] = codes, exponents

    config = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    change(written(model, folder), quantise, quantization_config=config)
    return meant


def random_mxfp4(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks, scales and what they stand for: [experts, rows, columns], whose blocks run along the rows."""
    experts, rows, columns = shape
    codes = torch.randint(16, (experts, columns, rows))
    exponents = torch.randint(122, 126, (experts, columns, rows // 32), dtype=torch.uint8)
    meant = torch.tensor(E2M1)[codes].reshape(experts, columns, -1, 32) * 2.0 ** (exponents[..., None].float() - 127)
    pairs = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8).reshape(experts, columns, -1, 16)
    return pairs, exponents, meant.reshape(experts, columns, rows).transpose(1, 2).bfloat16().contiguous()
