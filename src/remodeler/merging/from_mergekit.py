"""The merge that a YAML file written for mergekit describes, as a config."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.merging.config import MergeConfig, MergekitConventions
from remodeler.merging.mergekit_file import Vocabulary, read_mergekit
from remodeler.merging.mergekit_methods import options_of
from remodeler.merging.table import METHODS


def resolve_file(config: MergeConfig) -> MergeConfig:
    """Replace the file of a config by its contents; a config without one is returned as it is."""
    return config if config.config is None else read_merge(config.config, replace(config, config=None))


def read_merge(path: Path, config: MergeConfig | None = None) -> MergeConfig:
    """The merge of a file.

    Args:
        path: of the file.
        config: options that a file doesn't have; a dtype that is given here overrides the file's.

    Raises:
        InputError: for what is not YAML, and for what this tool does not do, by name.
    """
    config = config or MergeConfig()
    file = read_mergekit(path)
    needs_base = METHODS[file.method].needs_base
    models = sorted(file.sources, key=lambda each: each.model != file.base)  # t = 0 of slerp, and the config, are its
    if needs_base:
        models = models[1:]
    try:
        options = options_of(file.method, models, file.common)
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    words = file.vocabulary or Vocabulary("")
    given: dict[str, Any] = {
        "models": tuple(each.model for each in models),
        "base": file.base if needs_base else None,
        "method": file.method,
        "tokenizer": words.source or None,
        "dtype": file.dtype if config.dtype == "auto" else config.dtype,
        "mergekit": MergekitConventions(file.base is not None, file.layers, words.tokens, words.pad_to_multiple_of),
    }
    return replace(config, **given, **options)
