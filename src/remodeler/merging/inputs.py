"""The checkpoints of a merge: found, looked at and held against each other before anything is written."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from remodeler.checkpoints import LIBRARY_ERRORS, check_files, one_sentence, read_settings
from remodeler.errors import InputError
from remodeler.merging.files import Place, places

FILES = ["*.safetensors", "*.json", "*.py", "*.txt", "*.model", "*.jinja", "README.md"]


@dataclass(frozen=True)
class Outline:
    """What a model's class says of its tensors; empty where the class is not known."""

    tied: Mapping[str, str]
    """Names that are another tensor once more, and that tensor's name."""
    embeddings: tuple[str, ...]
    """Tensors with a row a token."""
    order: tuple[str, ...]
    """All names, in the order in which the model has them."""


@dataclass(frozen=True)
class Model:
    """A checkpoint of the merge."""

    name: str
    folder: Path
    settings: Mapping[str, Any]
    """Its ``config.json``."""
    places: Mapping[str, Place]
    """Its tensors, in the order of its files; a tied one once."""

    @property
    def digest(self) -> str:
        """Tells whether the files are still those that they were: by names, places, sizes and dates."""
        files = {place.file for place in self.places.values()}
        dates = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        told = [(name, place.start, place.shape, str(place.dtype)) for name, place in self.places.items()]
        return hashlib.sha256(repr((dates, told)).encode()).hexdigest()


def opened(
    name: str, trust_remote_code: bool = False, like: tuple[Model, Outline] | None = None
) -> tuple[Model, Outline]:
    """A folder or hub id; ``like`` is one that was opened before, whose class it has where their configs are equal."""
    settings = read_settings(name, None)
    if settings.get("quantization_config"):
        raise InputError(f"{name} is quantised: merge the unquantised checkpoints, and quantise the result")
    with one_sentence(name, "the files"):
        folder = Path(name) if Path(name).is_dir() else Path(snapshot_download(name, allow_patterns=FILES))
    check_files(folder)
    same = like is not None and _shape(like[0].settings) == _shape(settings)
    outline = like[1] if like and same else outline_of(name, folder, trust_remote_code)
    return Model(name, folder, settings, once(places(folder), outline.tied)), outline


def _shape(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what says nothing of the tensors."""
    return {
        key: value for key, value in settings.items() if key not in ("dtype", "torch_dtype", "transformers_version")
    }


def outline_of(name: str, folder: Path, trust_remote_code: bool) -> Outline:
    """Names of a model's tensors from its class, built without numbers; nothing, for a class that can't be had."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = _built(config, trust_remote_code)
        model.tie_weights()
    except LIBRARY_ERRORS:
        return Outline({}, (), ())
    names: dict[int, str] = {}
    tied = {}
    for each, parameter in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), each)
        if first != each:
            tied[each] = first
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    rows = {id(value) for end in ends if isinstance(end, nn.Module) for value in end.parameters()}
    return Outline(tied, tuple(each for key, each in names.items() if key in rows), tuple(names.values()))


def _built(config: Any, trust_remote_code: bool) -> Any:
    known = getattr(transformers, (config.architectures or [""])[0], None)
    if known is not None:
        return known._from_config(config)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def once(found: Mapping[str, Place], tied: Mapping[str, str]) -> dict[str, Place]:
    """Tensors under their first names: of a tied one that is stored twice, only one stays."""
    firsts = [(name, tied.get(name, name), place) for name, place in found.items()]
    return {first: place for name, first, place in firsts if name == first or first not in found}


# Held against each other ----------------------------------------------------------------------------------------------


def refuse_strangers(first: Model, others: Sequence[Model], embeddings: Sequence[str] = ()) -> None:
    """Raise for models that do not have the same tensors.

    Args:
        first: what the others are held against: the base, if there is one.
        others: the models.
        embeddings: tensors that may have another number of rows.
    """
    for other in others:
        _refuse_names(first, other)
        for name, place in first.places.items():
            _refuse_shape(name, (first, place.shape), (other, other.places[name].shape), name in embeddings)


def _refuse_names(first: Model, other: Model) -> None:
    for has, lacks in ((first, other), (other, first)):
        missing = [name for name in has.places if name not in lacks.places]
        if missing:
            raise InputError(
                f"{missing[0]} is in {has.name} and not in {lacks.name}: only models with equal tensors can be merged"
            )


def _refuse_shape(
    name: str, one: tuple[Model, tuple[int, ...]], two: tuple[Model, tuple[int, ...]], rows: bool
) -> None:
    (first, shape), (second, other) = one, two
    if shape == other or (rows and shape[1:] == other[1:]):
        return
    tokens = shape[1:] == other[1:] and len(shape) == 2
    advice = "--tokenizer base or union merges them by token" if tokens else "only equal shapes can be merged"
    raise InputError(f"{name} is {list(shape)} in {first.name} and {list(other)} in {second.name}: {advice}")
