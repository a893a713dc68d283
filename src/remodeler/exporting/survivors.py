"""What is left of a checkpoint, in the order in which it is computed."""

from remodeler.checkpoints import Checkpoint
from remodeler.exporting.rows import Part


def computed(checkpoint: Checkpoint) -> list[Part]:
    """The blocks of a checkpoint in order, by their layers in the source."""
    anatomy = checkpoint.anatomy
    every = sorted(anatomy.branches, key=lambda block: (anatomy.branches[block].site.position, block.kind))
    return [(block.layer, block.kind) for block in every]


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
