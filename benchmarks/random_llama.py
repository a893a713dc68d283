"""The tensors of a Llama's shape, a layer at a time, drawn by the caller: for claims of time and memory."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import LlamaConfig


def tensors(config: LlamaConfig, drawn: Callable[..., Tensor]) -> Iterator[dict[str, Tensor]]:
    """Parts as they are written; norms are ones, in the config's bfloat16."""
    width, inner, words = config.hidden_size, config.intermediate_size, config.vocab_size
    yield {"model.embed_tokens.weight": drawn(words, width)}
    for layer in range(config.num_hidden_layers):
        shapes = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
        shapes |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
        part = {f"model.layers.{layer}.{name}.weight": drawn(*shape) for name, shape in shapes.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            part[f"model.layers.{layer}.{norm}.weight"] = torch.ones(width, dtype=torch.bfloat16)
        yield part
    yield {"model.norm.weight": torch.ones(width, dtype=torch.bfloat16)}
    yield {"lm_head.weight": drawn(words, width)}
