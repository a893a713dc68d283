"""Tiny models to merge, and their tensors."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tiny import tiny_model, tiny_tokenizer


def written(
    folder: Path,
    seed: int,
    name: str = "llama",
    shard: str = "5GB",
    words: tuple[str, ...] = (),
    step: float = 0.01,
    **more: Any,
) -> Path:
    """A tiny model that moved a little away from seed 0's, with its tokenizer."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(words))
    model: Any = tiny_model(name, **more)
    if words:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if seed:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * step * seed)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


def tensors(folder: Path | str) -> dict[str, torch.Tensor]:
    return {name: each for file in sorted(Path(folder).glob("*.safetensors")) for name, each in load_file(file).items()}
