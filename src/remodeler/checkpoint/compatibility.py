"""What readers older than transformers 5 need in ``config.json`` and ``tokenizer_config.json``.

transformers 5 renamed keys: rotary embeddings stand in ``rope_parameters`` alone, ``torch_dtype`` is ``dtype``, fast
tokenizers are of the class ``TokenizersBackend``, and more special tokens are ``extra_special_tokens``. Readers that
don't know the new names take their defaults (``rope_theta`` 10,000) or refuse the folder. Both names are written;
transformers 5 reads the same from them. Checked against transformers 4.57 for every family of ``families.py``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remodeler.model.families import config_names
from remodeler.runs.records import read_json, write_json, write_text

Settings = Mapping[str, Any]
CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer_config.json"
NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
NOT_QUANTISED = ("quantization_config", None)
"""An entry that transformers 4 refuses."""
OF_THE_MACHINE = ("is_local", "local_files_only")
"""Where a tokenizer was loaded from, which transformers 5 writes down with it."""
AT_THE_TOP = ("rope_theta", "partial_rotary_factor")
TYPE = {"rope_type", "type"}


def complete_config(folder: Path) -> None:
    """Add to the config in a folder what older readers need (see :func:`with_older_names`)."""
    write_config(folder, read_json(folder / CONFIG_FILE))


def write_config(folder: Path, settings: Settings) -> None:
    """Write a config with the names of older readers; an infinity stays the word that Python's JSON has for it."""
    write_text(folder / CONFIG_FILE, json.dumps(with_older_names(settings), ensure_ascii=False, indent=2) + "\n")


def with_older_names(settings: Settings) -> dict[str, Any]:
    """A config with the names of transformers 4 beside those of transformers 5, in nested configs too."""
    nested = {key: with_older_names(value) for key, value in settings.items() if _is_config(key, value)}
    settings = {**settings, **nested}
    dtype = settings.get("dtype") or settings.get("torch_dtype")
    found = {**settings, **rope_names(settings), **({"dtype": dtype, "torch_dtype": dtype} if dtype else {})}
    names = config_names(settings.get("packing", {}).get("source") or settings.get("model_type"))
    found |= {old: found[new] for new, old in names.renamed if new in found}
    return {key: value for key, value in found.items() if (key, value) != NOT_QUANTISED}


def _is_config(key: str, value: Any) -> bool:
    return key.endswith("_config") and isinstance(value, dict) and "model_type" in value


def rope_names(settings: Settings) -> dict[str, Any]:
    """``rope_parameters`` as transformers 4 has them: base, scaling and share of rotated dimensions at the top.

    Of parameters by type of layer (Gemma 3, OLMo 3) the full attention's are the model's, and the sliding one's base
    has a name of its own.
    """
    if settings.get("rope_scaling"):  # transformers 5 takes it before rope_parameters
        return {}
    parameters = settings.get("rope_parameters")
    if not isinstance(parameters, dict) or not parameters:
        return {}
    sliding = parameters.get("sliding_attention")
    own = parameters.get("full_attention", parameters)
    if not isinstance(own, dict):
        return {}
    known = config_names(settings.get("packing", {}).get("source") or settings.get("model_type"))
    if own is not parameters and not known.full_rope:
        return {}
    names = {key: own[key] for key in AT_THE_TOP if own.get(key) is not None}
    if known.sliding_base and isinstance(sliding, dict):
        names[known.sliding_base] = sliding.get("rope_theta")
    return {**names, "rope_scaling": _scaling(own, known.long_rope)}


def _scaling(parameters: Settings, long_rope: tuple[str, ...]) -> dict[str, Any] | None:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    plain = {key: value for key, value in parameters.items() if key not in AT_THE_TOP}
    if kind == "default" and not plain.keys() - TYPE:  # Qwen2-VL has sections beside it
        return None
    if kind == "longrope" and long_rope:
        return {key: value for key, value in (plain | {"type": kind}).items() if key in long_rope}
    return {**plain, "rope_type": kind}


def complete_tokenizer(folder: Path, source_class: str | None = None) -> None:
    """Name in the tokenizer config of a folder a class that older readers know, and special tokens as they do.

    Args:
        folder: with a ``tokenizer_config.json``; without one nothing is done.
        source_class: what the model it was made from calls its tokenizer.
    """
    file = folder / TOKENIZER_FILE
    if file.exists():
        write_json(file, tokenizer_with_older_names(read_json(file), source_class))


def tokenizer_with_older_names(settings: Settings, source_class: str | None = None) -> dict[str, Any]:
    """A tokenizer config as transformers 4 reads it; transformers 5 reads the same."""
    found = {key: value for key, value in settings.items() if key not in OF_THE_MACHINE}
    if found.get("tokenizer_class") == NEW_CLASS:
        found["tokenizer_class"] = source_class if source_class not in (None, NEW_CLASS) else OLD_CLASS
    if isinstance(found.get("extra_special_tokens"), list):  # a dict of named ones in transformers 4
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    if named := found.pop("model_specific_special_tokens", None):
        found["extra_special_tokens"] = named
    return found
