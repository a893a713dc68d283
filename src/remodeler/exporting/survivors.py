"""What is left of a checkpoint, in the order in which it is computed."""

from typing import Any

from torch import Tensor, nn

from remodeler.checkpoint.load import Checkpoint
from remodeler.model.layerwise import order
from remodeler.runs.units import Block


def surviving_blocks(checkpoint: Checkpoint) -> list[Block]:
    """The blocks of a checkpoint in order, by their layers in the source."""
    anatomy = checkpoint.anatomy
    return sorted(anatomy.branches, key=lambda block: order(anatomy, block))


def depth(checkpoint: Checkpoint) -> int:
    """Layers of the source, before any pruning."""
    config = checkpoint.model.config
    before = getattr(config, "packing", None) or {}
    return int(before.get("num_hidden_layers", config.num_hidden_layers))


def source_type(checkpoint: Checkpoint) -> str:
    """The model type of the source."""
    config = checkpoint.model.config
    return str((getattr(config, "packing", None) or {}).get("source", config.model_type))


def head_size(checkpoint: Checkpoint) -> int:
    """Numbers of an attention's head."""
    config = checkpoint.model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def slides(config: Any) -> bool:
    """Whether its attentions look back over a window only."""
    return bool(getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None))


def outside(checkpoint: Checkpoint) -> tuple[Tensor, Tensor, Tensor | None]:
    """The embedding, the weight of the last norm, and the output, None where it is the embedding."""
    model = checkpoint.model
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    norm = model.get_submodule(checkpoint.anatomy.family.trunk).norm.weight
    return embedding, norm, None if output is embedding else output


def norm_and_module(checkpoint: Checkpoint, block: Block) -> tuple[Tensor, nn.Module]:
    """Of a block of a sequential pre-norm family: its norm's weight, and what it runs."""
    branch = checkpoint.anatomy.branches[block]
    norm = branch.site.layer.get_submodule(branch.names["norms"][0])
    return norm.get_parameter("weight"), branch.modules()[-1]
