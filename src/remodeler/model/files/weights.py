"""Which files of a folder hold the weights of its model: one reader for all verbs, with transformers' meaning.

A file that ``transformers_weights`` in config.json names counts, else model.safetensors, else what
model.safetensors.index.json names. Nothing else in the folder does: a stale index or shards beside a whole file,
consolidated.safetensors, adapters, variants, pickles. Of several files that hold a tensor of one name the last counts.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from remodeler.errors import InputError, one_line
from remodeler.model.files.diagnosis import CONFIG, refuse_adapter, refuse_weightless
from remodeler.model.files.file_checks import json_object, refuse_file
from remodeler.model.files.gguf.reader import SUFFIX, open_gguf

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
GGUF_PATH = "model.gguf.path"
"""Of a GGUF file that is read as a folder: where it lies (:mod:`remodeler.checkpoint.gguf`)."""
DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""Files that transformers reads before all others, as shards of a distributed run."""


def start_file(folder: Path) -> Path:
    """The file that the weights are found by: a whole one, or an index.

    Raises:
        InputError: when there is none; says what is there instead.
    """
    config = folder / CONFIG
    named = json_object(config).get("transformers_weights") if config.is_file() else None
    if named is not None:
        return _named_file(folder, named)
    if any(DISTRIBUTED.fullmatch(path.name) for path in folder.iterdir()):
        refuse_weightless(folder)
    for name in (WHOLE, INDEX):
        if (folder / name).is_file():
            return folder / name
    if (folder / GGUF_PATH).is_file():
        return Path(os.fsdecode((folder / GGUF_PATH).read_bytes()))
    refuse_weightless(folder)
    raise AssertionError  # it always raises


def _named_file(folder: Path, named: Any) -> Path:
    """The file that config.json names."""
    place = Path(str(named))
    if (
        not place.name.endswith((".safetensors", ".safetensors.index.json"))
        or place.is_absolute()
        or ".." in place.parts
    ):
        raise InputError(f"config.json of {folder} names {named} as the weights: a safetensors file in it was expected")
    if not (folder / place).is_file():
        raise InputError(f"{named}, which config.json of {folder} names as the weights, is not there: get that file")
    return folder / place


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder's model, sorted; those of an index may be missing.

    Raises:
        InputError: when there are none, or an adapter lies beside them.
    """
    start = start_file(folder)
    refuse_adapter(folder)
    if start.suffix != ".json":
        return [start]
    return sorted({folder / name for name in weight_map(start).values()})


def tensor_files(folder: Path) -> dict[str, Path]:
    """Names of the weights of a folder's model, and which file each is in.

    Raises:
        InputError: when there are none, or a file is missing, damaged or none of safetensors.
    """
    found: dict[str, Path] = {}
    for file in weight_files(folder):
        found |= dict.fromkeys(names_in(file), file)
    return found


def absent(folder: Path, found: Iterable[str]) -> list[str]:
    """Names that the index has and the files have not; transformers asks only whether the model needs them."""
    start = start_file(folder)
    return sorted(weight_map(start).keys() - set(found)) if start.suffix == ".json" else []


def names_in(file: Path) -> list[str]:
    """Names of the tensors in a file of safetensors.

    Raises:
        InputError: when it is missing, damaged or something else.
    """
    refuse_missing(file)
    if file.suffix == SUFFIX:
        return open_gguf(file).keys()
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        refuse_file(file)
        raise InputError(f"{file} is truncated or damaged ({one_line(error)}): get the file again") from None


def refuse_missing(file: Path) -> None:
    """Raise for a file that an index names and that is not there."""
    if not file.is_file():
        raise InputError(
            f"shard {file.name} named in {INDEX} is missing from {file.parent}: get the complete checkpoint"
        )


def weight_map(index: Path) -> dict[str, str]:
    """File names by tensor, as an index has them."""
    told = json_object(index)
    if not isinstance(told.get("weight_map"), dict) or not told["weight_map"]:
        raise InputError(f"{index} has no weight_map: get the complete checkpoint")
    if not isinstance(told.get("metadata"), dict):
        raise InputError(f'{index} has no metadata, without which transformers reads no index: add "metadata": {{}}')
    return {str(key): str(name) for key, name in told["weight_map"].items()}
