"""A checkpoint as llama.cpp's dense model: its tensors by their names there, its sizes, and the keys that describe it.

Only what llama.cpp computes in the same way is taken: Llama's shapes, Mistral's without a sliding window, Qwen2's and
tied Qwen3's. What is gone from the checkpoint is not among the tensors; layers keep the numbers of the source.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, LlamaFileType, quants
from torch import Tensor

from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError
from remodeler.exporting.config_fields import refuse_other_arithmetic, rope_of
from remodeler.exporting.survivors import depth, head_size, norm_and_module, outside, source_type, surviving_blocks
from remodeler.model.files.gguf.rope import llama3_factors
from remodeler.model.files.gguf.values import Key, Raw
from remodeler.model.gguf.file import Given
from remodeler.model.gguf.known import BIASES
from remodeler.model.gguf.plan import Sizes
from remodeler.model.gguf.tensors import Dense, Read
from remodeler.runs.units import Block

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""What llama.cpp calls a model type: its own fact, and not of a family, so it stands here."""
ATTENTION_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
}
MLP_NAMES = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
KINDS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""What matrices are stored in; norms and biases are float32."""
BLOCK = 32
"""Numbers that Q8_0 stores together."""
HALF = 65504
"""The largest number of float16."""


def describe(checkpoint: Checkpoint, kind: str) -> Given:
    """A checkpoint as a dense GGUF file would hold it, without the tokenizer.

    Args:
        checkpoint: on the CPU.
        kind: a row of ``KINDS``.

    Raises:
        InputError: for what llama.cpp computes in another way, or not at all.
    """
    config = checkpoint.model.config
    arch = _architecture(checkpoint)
    refuse_other_arithmetic(config, checkpoint.name, "a GGUF file of these architectures")
    head = head_size(checkpoint)
    tensors = dict(_tensors(checkpoint, kind))
    heads, shared, channels = (_rows(tensors, name) for name in ("attn_q", "attn_k", "ffn_gate"))
    sizes = Sizes(
        arch,
        {layer: rows // head for layer, rows in heads.items()},
        {layer: rows // head for layer, rows in shared.items()},
        channels,
        "output.weight" not in tensors,
    )
    dense = Dense(sizes, tensors, config.hidden_size, head, permuted=False)
    return Given(dense, dict(_keys(config, head, kind)), depth(checkpoint))


def _architecture(checkpoint: Checkpoint) -> str:
    kind = source_type(checkpoint)
    if kind not in ARCHITECTURES or checkpoint.anatomy.parallel:
        raise InputError(
            f"llama.cpp leaves out blocks of {', '.join(ARCHITECTURES)} only, {checkpoint.name} is {kind}: search with "
            "`shape='standard'`, whose result its own converter takes"
        )
    return ARCHITECTURES[kind]


def _rows(tensors: dict[str, Read], part: str) -> dict[int, int]:
    """By source layer the rows of a matrix."""
    names = [name for name in tensors if name.endswith(f".{part}.weight")]
    return {int(name.split(".")[1]): len(tensors[name]().data) for name in names}


# Tensors --------------------------------------------------------------------------------------------------------------


def _tensors(checkpoint: Checkpoint, kind: str) -> Iterator[tuple[str, Read]]:
    embedding, final, output = outside(checkpoint)
    yield "token_embd.weight", partial(raw, embedding, kind)
    yield "output_norm.weight", partial(raw, final, kind)
    if output is not None:
        yield "output.weight", partial(raw, output, kind)
    factors = rope_factors(checkpoint.model.config)
    if factors is not None:
        yield "rope_freqs.weight", partial(raw, factors, kind)
    for block in surviving_blocks(checkpoint):
        for name, value in _block(checkpoint, block):
            yield f"blk.{block.layer}.{name}", partial(raw, value, kind)


def _block(checkpoint: Checkpoint, block: Block) -> Iterator[tuple[str, Tensor]]:
    names = ATTENTION_NAMES if block.kind == "attention" else MLP_NAMES
    norm, module = norm_and_module(checkpoint, block)
    yield ("attn_norm.weight" if block.kind == "attention" else "ffn_norm.weight"), norm
    found = dict(module.named_parameters())
    for path, value in found.items():
        part, _, rest = path.rpartition(".")
        if part not in names or not _has_place(names[part], rest, ARCHITECTURES[source_type(checkpoint)]):
            raise InputError(
                f"{checkpoint.name} has a parameter {path} in its {block.kind}, which llama.cpp has no place for: "
                "keep the folder, for transformers or vLLM"
            )
        yield f"{names[part]}.{rest}", value
    missing = [part for part in names if f"{part}.weight" not in found and not part.endswith("norm")]
    if missing:
        place = f"{missing[0]}.weight in its {block.kind}"
        raise InputError(f"{checkpoint.name} has no {place}: give one that is not quantised")


def _has_place(name: str, rest: str, arch: str) -> bool:
    return rest == "weight" or (rest == "bias" and name in BIASES[arch])


def raw(value: Tensor, kind: str) -> Raw:
    """A tensor as it lies in a file: vectors in float32, matrices in what was asked for.

    Raises:
        InputError: for a number that float16 does not reach.
    """
    numbers = value.detach().to("cpu", torch.float32).numpy()
    stored = KINDS[kind][0]
    if value.ndim < 2 or (stored == GGMLQuantizationType.Q8_0 and value.shape[-1] % BLOCK):
        return Raw(numbers, GGMLQuantizationType.F32)
    if stored == GGMLQuantizationType.F32:
        return Raw(numbers, stored)
    if stored == GGMLQuantizationType.F16:
        if (largest := float(np.abs(numbers).max())) > HALF:
            raise InputError(f"a weight is {largest:.3g}, `store` f16 holds {HALF:,} at most: take `store='bf16'`")
        return Raw(numbers.astype(np.float16), stored)
    return Raw(quants.quantize(numbers, stored), stored)


# Keys -----------------------------------------------------------------------------------------------------------------


def _keys(config: Any, head: int, kind: str) -> Iterator[tuple[str, Key]]:
    whole, real = GGUFValueType.UINT32, GGUFValueType.FLOAT32
    yield "general.file_type", Key(int(KINDS[kind][1]), whole)
    yield "general.quantization_version", Key(2, whole)
    for name, value in {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "vocab_size": config.vocab_size,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
    }.items():
        yield f".{name}", Key(int(value), whole)
    yield ".attention.layer_norm_rms_epsilon", Key(float(config.rms_norm_eps), real)
    yield ".rope.freq_base", Key(float(rope_of(config)["rope_theta"]), real)
    yield from _scaling(rope_of(config), real)


def _scaling(rope: dict[str, Any], real: GGUFValueType) -> Iterator[tuple[str, Key]]:
    """What stretches the context; Llama 3's way is a tensor."""
    if rope["rope_type"] not in ("linear", "yarn"):
        return
    yield ".rope.scaling.type", Key(rope["rope_type"], GGUFValueType.STRING)
    yield ".rope.scaling.factor", Key(float(rope["factor"]), real)
    if before := rope.get("original_max_position_embeddings"):
        yield ".rope.scaling.original_context_length", Key(int(before), GGUFValueType.UINT32)


def rope_factors(config: Any) -> Tensor | None:
    """Llama 3's scaling as what each frequency is divided by: [head / 2]; None for other ways."""
    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return llama3_factors(rope, rope["rope_theta"], head)
