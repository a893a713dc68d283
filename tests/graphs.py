"""Tiny models on disk, and pruned ones, for exports of graphs."""

from pathlib import Path

from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.runs.units import Block
from tiny import VOCABULARY, tiny_model, tiny_tokenizer


def made(kind: str, folder: Path) -> Checkpoint:
    """A random model of a family, as it is loaded."""
    tiny_model(kind, 3, vocab_size=VOCABULARY + 10).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load(folder, dtype="float32", device="cpu")


def pruned(source: Checkpoint, names: list[str], folder: Path) -> Checkpoint:
    """A pruned model as the verbs write it."""
    folder.mkdir()
    return save_pruned(source, [Block.parse(name) for name in names], folder).checkpoint
