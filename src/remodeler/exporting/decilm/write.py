"""DeciLM's layout (``nemotron-nas``): each layer says whether it has an attention and an MLP, and how wide they are.

vLLM, mlx-lm, SGLang and TensorRT-LLM have a class of their own for it. Its readers disagree at the edges, so this
writes what all of them read alike: rows are paired first; an attention without an MLP has one of zeros behind it, 256
wide; so has a last layer without an MLP; a first layer without an attention has one of zeros; and widths of MLPs are
multiples of 256, filled up with channels of zeros, because they are told by a factor that readers round up to such.

Llama's shapes, with Qwen2's biases: where queries, keys and values have some, the output has one too, of zeros if need
be, because mlx-lm knows all or none. Norms on queries and keys and sandwiches have no place in it.
"""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from remodeler.checkpoint.companions import write_companions
from remodeler.checkpoint.compatibility import write_config
from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError
from remodeler.exporting.config_fields import refuse_other_arithmetic
from remodeler.exporting.decilm import configuration_decilm
from remodeler.exporting.survivors import head_size, norm_and_module, outside, source_type, surviving_blocks
from remodeler.model.pairing import Row, rows_of
from remodeler.runs.records import disk_errors
from remodeler.runs.units import Block

logger = logging.getLogger(__name__)

FAMILIES = ("llama", "mistral", "qwen2")
"""Whose shapes the layout has: a fact of the layout, and not of a family, so it stands here."""
WIDTH = 256
"""What widths of MLPs are multiples of."""
ATTENTION, MLP = "self_attn", "mlp"
NORMS = {ATTENTION: "input_layernorm", MLP: "post_attention_layernorm"}
CODE = "configuration_decilm"
KEPT = (
    *("vocab_size", "hidden_size", "num_attention_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act"),
    *("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "rope_parameters"),
)
"""Of the source's config."""


def write_nemotron(checkpoint: Checkpoint, folder: Path, max_shard_size: str = "5GB") -> int:
    """Write a checkpoint in DeciLM's layout into a folder.

    Args:
        checkpoint: on the CPU.
        folder: an existing one, to fill.
        max_shard_size: largest weight file.

    Returns:
        Number of layers.

    Raises:
        InputError: for what the layout can't say.
    """
    refuse(checkpoint)
    rows = rows_of(surviving_blocks(checkpoint))
    with disk_errors(folder):
        write_config(folder, config_of(checkpoint, rows))
        shutil.copyfile(configuration_decilm.__file__, folder / f"{CODE}.py")
        tensors = {name: tensor.detach().contiguous() for name, tensor in tensors_of(checkpoint, rows)}
        save_torch_state_dict(tensors, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})
        write_companions(checkpoint, folder, code=False)
    stand_ins = sum((row.mlp is None) + (row.attention is None and number == 0) for number, row in enumerate(rows))
    logger.info(
        f"{len(rows)} layers in DeciLM's layout" + (f", {stand_ins} with a stand-in of zeros" if stand_ins else "")
    )
    return len(rows)


def refuse(checkpoint: Checkpoint) -> None:
    """Raise for what the layout has no place for."""
    config, kind = checkpoint.model.config, source_type(checkpoint)
    if kind not in FAMILIES:
        raise InputError(
            f"DeciLM's layout holds {', '.join(FAMILIES)} only, {checkpoint.name} is {kind}: keep the packed form, "
            "which vLLM serves as it is"
        )
    refuse_other_arithmetic(config, checkpoint.name, "DeciLM's layout", ("beta_fast", "beta_slow"))
    attentions = [block for block in surviving_blocks(checkpoint) if block.kind == "attention"]
    heads = {len(_weight(checkpoint, block, "q_proj")) for block in attentions}
    if heads - {config.num_attention_heads * head_size(checkpoint)}:
        raise InputError(
            f"the layers of {checkpoint.name} keep different numbers of query heads, DeciLM's layout has one for all: "
            "prune with `uniform`, or keep the packed form"
        )


def _weight(checkpoint: Checkpoint, block: Block, part: str) -> Tensor:
    return norm_and_module(checkpoint, block)[1].get_submodule(part).get_parameter("weight")


def _biased(checkpoint: Checkpoint, part: str) -> bool:
    """Whether projections of that name have biases."""
    return any(name.endswith(f"{part}.bias") for name, _ in checkpoint.model.named_parameters())


# The config -----------------------------------------------------------------------------------------------------------


def config_of(checkpoint: Checkpoint, rows: list[Row]) -> dict[str, Any]:
    """``config.json``; ``num_key_value_heads`` and ``intermediate_size`` are there for readers that want numbers."""
    config = checkpoint.model.config
    biased = _biased(checkpoint, "q_proj")
    blocks = [block_config(checkpoint, row, number) for number, row in enumerate(rows)]
    known = {name: getattr(config, name, None) for name in KEPT}
    rope = known["rope_parameters"] or {}
    return {
        **{name: value for name, value in known.items() if value is not None},
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {"AutoConfig": f"{CODE}.DeciLMConfig"},
        "num_hidden_layers": len(rows),
        "num_key_value_heads": config.num_key_value_heads,
        "intermediate_size": max(_channels(checkpoint, row) for row in rows),
        "head_dim": head_size(checkpoint),
        "attention_bias": biased,
        "qkv_bias": biased,  # vLLM, where it is there, goes by it for queries, keys and values
        "mlp_bias": _biased(checkpoint, "down_proj"),
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_scaling": None,  # from rope_parameters, when it is written
        "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        "block_configs": blocks,
    }


def block_config(checkpoint: Checkpoint, row: Row, number: int) -> dict[str, Any]:
    """What a layer is."""
    config = checkpoint.model.config
    gone = row.attention is None and number > 0
    shared = config.num_key_value_heads
    if row.attention is not None:
        shared = len(_weight(checkpoint, Block(row.attention, "attention"), "k_proj")) // head_size(checkpoint)
    mult = 1.5 * (_channels(checkpoint, row) - WIDTH // 2) / config.hidden_size
    return {
        "attention": {
            "no_op": gone,
            "replace_with_linear": False,
            "n_heads_in_group": None if gone else config.num_attention_heads // shared,
        },
        "ffn": {"no_op": False, "replace_with_linear": False, "ffn_mult": mult},
    }


def _channels(checkpoint: Checkpoint, row: Row) -> int:
    """Of a row's MLP, real or of zeros, up to the next multiple."""
    if row.mlp is None:
        return WIDTH
    return -(-len(_weight(checkpoint, Block(row.mlp, "mlp"), "gate_proj")) // WIDTH) * WIDTH


# Tensors --------------------------------------------------------------------------------------------------------------


def tensors_of(checkpoint: Checkpoint, rows: list[Row]) -> Iterator[tuple[str, Tensor]]:
    """By Llama's names; a tied output is not repeated."""
    embedding, final, output = outside(checkpoint)
    yield "model.embed_tokens.weight", embedding
    yield "model.norm.weight", final
    if output is not None:
        yield "lm_head.weight", output
    for number, row in enumerate(rows):
        for name, tensor in _layer(checkpoint, row, number):
            yield f"model.layers.{number}.{name}", tensor


def _layer(checkpoint: Checkpoint, row: Row, number: int) -> Iterator[tuple[str, Tensor]]:
    if row.attention is not None:
        yield from _block(checkpoint, Block(row.attention, "attention"), ATTENTION)
    elif number == 0:
        yield from _no_attention(checkpoint)
    if row.mlp is not None:
        for name, tensor in _block(checkpoint, Block(row.mlp, "mlp"), MLP):
            yield name, _filled_up(name, tensor)
    else:
        yield from _no_mlp(checkpoint)


def _block(checkpoint: Checkpoint, block: Block, place: str) -> Iterator[tuple[str, Tensor]]:
    norm, module = norm_and_module(checkpoint, block)
    yield f"{NORMS[place]}.weight", norm
    found = {f"{place}.{name}": value for name, value in module.named_parameters()}
    yield from found.items()
    output = f"{place}.o_proj"
    if f"{place}.q_proj.bias" in found and f"{output}.bias" not in found:
        yield f"{output}.bias", norm.new_zeros(len(found[f"{output}.weight"]))


def _filled_up(name: str, tensor: Tensor) -> Tensor:
    """An MLP's tensor with channels of zeros up to the next multiple."""
    along = 1 if name.endswith("down_proj.weight") else 0
    if not name.startswith(MLP) or name.endswith("down_proj.bias") or not tensor.shape[along] % WIDTH:
        return tensor
    shape = list(tensor.shape)
    shape[along] = WIDTH - shape[along] % WIDTH
    return torch.cat([tensor.detach(), tensor.new_zeros(shape)], along)


def _no_mlp(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    hidden = checkpoint.model.config.hidden_size
    shapes = {"gate": (WIDTH, hidden), "up": (WIDTH, hidden), "down": (hidden, WIDTH)}
    return _zeros(checkpoint, MLP, shapes, _biased(checkpoint, "down_proj"))


def _no_attention(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    config, size = checkpoint.model.config, head_size(checkpoint)
    hidden, queries, shared = config.hidden_size, config.num_attention_heads * size, config.num_key_value_heads * size
    shapes = {"q": (queries, hidden), "k": (shared, hidden), "v": (shared, hidden), "o": (hidden, queries)}
    return _zeros(checkpoint, ATTENTION, shapes, _biased(checkpoint, "q_proj"))


def _zeros(
    checkpoint: Checkpoint, place: str, shapes: dict[str, tuple[int, int]], biased: bool
) -> Iterator[tuple[str, Tensor]]:
    """A stand-in that adds nothing."""
    like = checkpoint.model.get_input_embeddings().weight
    yield f"{NORMS[place]}.weight", like.new_ones(checkpoint.model.config.hidden_size)
    for part, shape in shapes.items():
        yield f"{place}.{part}_proj.weight", like.new_zeros(shape)
        if biased:
            yield f"{place}.{part}_proj.bias", like.new_zeros(shape[0])
