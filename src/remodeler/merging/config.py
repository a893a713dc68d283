"""What a person asks of a merge, in options or in a file written for mergekit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.merging.mergekit_file import Vocabulary, read_mergekit
from remodeler.merging.mergekit_methods import options_of
from remodeler.merging.mergekit_tokens import TokenRow
from remodeler.merging.table import MERGE_METHODS, Method


@dataclass(frozen=True)
class FromMergekit:
    """What a file written for mergekit asks for besides; with it, mergekit's conventions hold.

    They are: tensors behind the layers (the last norm, the head) have the depth 0 of gradients; without a ``dtype`` the
    widest of the models' is written; of a common vocabulary, rows that stand for no token go; and a token that a model
    lacks has the mean of those that have it, where the file names no base.
    """

    has_base: bool
    """Whether the file names one: for methods without, it is the first of the models."""
    layers: int | None = None
    """How many layers of each model are wanted: all, or it is refused."""
    tokens: tuple[TokenRow, ...] = ()
    """Where the rows of single tokens come from."""
    pad_to_multiple_of: int = 1
    """Of the rows of embeddings; those behind the tokens are the mean of the others."""


@dataclass(frozen=True)
class Wish:
    """What to merge, and how."""

    models: tuple[str, ...]
    base: str | None = None
    method: str | Method = "linear"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the method: bools and words as they are, numbers as settings; those of ``PER_MODEL`` in a list."""
    tokenizer: str | None = None
    """Merge embedding rows by token: into the base's vocabulary (``base``) or that of all (``union``)."""
    dtype: str = "auto"
    """Of the result: as the base, or the first model, has it; or another."""
    device: str = "cpu"
    seed: int = 42
    shard_size: str = "5GB"
    trust_remote_code: bool = False
    mergekit: FromMergekit | None = None
    """Set where a file written for mergekit describes the merge."""


def of_file(path: Path, **more: Any) -> Wish:
    """A merge as a YAML file written for mergekit describes it.

    Raises:
        InputError: for what is not YAML, and for what this tool does not do, by name.
    """
    file = read_mergekit(path)
    needs_base = MERGE_METHODS[file.method].needs_base
    models = sorted(file.sources, key=lambda each: each.model != file.base)  # t = 0 of slerp, and the config, are its
    if needs_base:
        models = models[1:]
    try:
        options = options_of(file.method, models, file.common)
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    words = file.vocabulary or Vocabulary("")
    besides = FromMergekit(file.base is not None, file.layers, words.tokens, words.pad_to_multiple_of)
    given: dict[str, Any] = {"dtype": file.dtype, "tokenizer": words.source or None, "mergekit": besides}
    names = tuple(each.model for each in models)
    return Wish(names, file.base if needs_base else None, file.method, options, **(given | more))
