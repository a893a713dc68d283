"""What a person asks of a merge, in options or in a file written for mergekit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from remodeler.errors import InputError
from remodeler.merging.settings import from_yaml
from remodeler.merging.table import MERGE_METHODS, PER_MODEL, Method

RENAMED = {"lambda": "scale", "select_topk": "select"}
"""mergekit's names of options, and ours."""
WITHOUT_EFFECT = ("int8_mask",)
KNOWN = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
)


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


def of_file(path: Path, **more: Any) -> Wish:
    """A merge as a YAML file written for mergekit describes it.

    Raises:
        InputError: for what is not YAML, and for what this tool does not do, by name.
    """
    told = _read(path)
    if unknown := sorted(told.keys() - set(KNOWN)):
        raise InputError(f"{path} has {unknown[0]}, which is not read here: remove it, or run mergekit")
    entries = _entries(path, told)
    method = str(told.get("merge_method"))
    if method not in MERGE_METHODS:
        raise InputError(f"merge_method {method} of {path} is not known: choose {', '.join(MERGE_METHODS)}")
    base = told.get("base_model")
    if MERGE_METHODS[method].needs_base:  # listed once more, it changed nothing
        entries = [each for each in entries if each["model"] != base]
    options = _options(path, method, told.get("parameters") or {}, entries)
    dtype = told.get("out_dtype") or told.get("dtype") or "auto"
    given: dict[str, Any] = {"dtype": dtype, "tokenizer": _tokenizer(told, path)}
    used_base = str(base) if base and MERGE_METHODS[method].needs_base else None
    return Wish(tuple(str(each["model"]) for each in entries), used_base, method, options, **(given | more))


def _read(path: Path) -> dict[str, Any]:
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())}): check the file") from None
    if not isinstance(told, dict) or "merge_method" not in told:
        raise InputError(f"{path} names no merge_method: give a file written for mergekit")
    return told


def _entries(path: Path, told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Models with their parameters; of slices, one that takes all layers of each."""
    entries, slices = told.get("models"), told.get("slices")
    parameters: dict[str, Any] = {}
    if slices:
        if len(slices) != 1 or any(int(each["layer_range"][0]) for each in slices[0]["sources"]):
            raise InputError(f"{path} puts layers of different models together: only whole models are merged here")
        entries, parameters = slices[0]["sources"], slices[0].get("parameters") or {}
    if not isinstance(entries, list) or not all(isinstance(each, dict) and "model" in each for each in entries):
        raise InputError(f"{path} lists no models: give a list with a model in each entry")
    return [{"model": each["model"], "parameters": parameters | (each.get("parameters") or {})} for each in entries]


def _options(path: Path, method: str, common: Mapping[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The method's options, from what holds for all models and for each."""
    row, options = MERGE_METHODS[method], {}
    every = [_renamed(common | each["parameters"]) for each in entries]
    for option, default in row.options.items():
        found = [each[option] for each in every if option in each]
        if not found:
            continue
        if isinstance(default, bool | str):
            options[option] = found[0]
        elif option in PER_MODEL and len(found) != len(every):
            raise InputError(f"{path} gives {option} for {len(found)} of {len(every)} models: give it for each")
        else:
            options[option] = [from_yaml(option, value) for value in found]
    unknown = [name for each in every for name in each if name not in row.options and name not in WITHOUT_EFFECT]
    if unknown:
        raise InputError(f"parameter {unknown[0]} of {path} is none of {method}: it takes {', '.join(row.options)}")
    return options


def _renamed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(name, name): value for name, value in parameters.items()}


def _tokenizer(told: Mapping[str, Any], path: Path) -> str | None:
    given = told.get("tokenizer_source") or (told.get("tokenizer") or {}).get("source")
    if given not in (None, "base", "union"):
        raise InputError(f"{path} takes the tokenizer of {given}: only base and union are known here")
    return given
