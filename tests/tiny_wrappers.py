"""Tiny random models of text and images, and inputs with an image in them."""

from pathlib import Path
from typing import Any

import small_models
import torch

from remodeler.checkpoint.load import Checkpoint
from remodeler.model.families import WRAPPER
from remodeler.model.tracing import probe, trace
from tiny import tiny_tokenizer

IMAGE = 60
"""The token that an image's features stand at."""
PATCHES = 4
SEEN = {
    "gemma3": {"image_token_index": IMAGE, "mm_tokens_per_image": PATCHES},
    "llava": {"image_token_index": IMAGE},
    "mistral3": {"image_token_index": IMAGE, "vision_config": {"image_size": 56}},
    "qwen3_5": {"image_token_id": IMAGE},
    "qwen3_vl": {"image_token_id": IMAGE},
    "qwen3_vl_moe": {"image_token_id": IMAGE},
}
"""Types, and what makes an image of theirs four tokens."""


def tiny_wrapper(kind: str, seed: int = 0) -> Any:
    """A model of a type."""
    known = small_models.WRAPPERS.get(kind, {})
    small_models.WRAPPERS[kind] = known | SEEN[kind]
    try:
        return small_models.small_wrapper(kind, seed)
    finally:
        small_models.WRAPPERS[kind] = known


def wrapper_checkpoint(kind: str) -> Checkpoint:
    """The traced model with a tokenizer, in no files."""
    anatomy = trace(tiny_wrapper(kind), WRAPPER, probe(WRAPPER, torch.device("cpu")))
    return Checkpoint(anatomy, tiny_tokenizer(), kind, stored_dtype=torch.float32)


def wrapper_folder(kind: str, folder: Path) -> Path:
    """The model in files."""
    tiny_wrapper(kind).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def with_image(kind: str, seed: int = 0) -> dict[str, Any]:
    """A text with an image in it."""
    ids = torch.tensor([[3, 4, *[IMAGE] * PATCHES, 7, 8, 9]])
    drawn = torch.Generator().manual_seed(seed)
    marks = (ids == IMAGE).long()
    if kind.startswith("qwen3"):
        grid = torch.tensor([[1, 2, 2]])
        pixels = torch.randn(PATCHES, 3 * 14 * 14, generator=drawn)
        return {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": marks}
    size = 56 if kind == "mistral3" else 28
    found = {"input_ids": ids, "pixel_values": torch.randn(1, 3, size, size, generator=drawn)}
    more = {"mistral3": {"image_sizes": torch.tensor([[size, size]])}, "gemma3": {"token_type_ids": marks}}
    return found | more.get(kind, {})


@torch.no_grad()
def logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Of a model, without a cache."""
    found: torch.Tensor = model(**inputs, use_cache=False).logits
    return found
