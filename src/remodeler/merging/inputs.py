"""The checkpoints of a merge: found, inspected and compared before anything is written."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.library_errors import LIBRARY_ERRORS, one_sentence
from remodeler.checkpoint.load import check_files, read_config, read_settings
from remodeler.checkpoint.mismatches import Fit, refuse_misfit
from remodeler.checkpoint.quantised import refuse_quantised
from remodeler.checkpoint.repositories import classes, download, note_adapter
from remodeler.errors import InputError, option
from remodeler.merging.files import Place, equal_values, tensor_places
from remodeler.model.files.renaming import made_of
from remodeler.model.files.weights import absent
from remodeler.runs.options import as_recorded


@dataclass(frozen=True)
class Outline:
    """The tensors of a model by its class; empty where the class is not known."""

    tied: Mapping[str, str]
    """Names of tied tensors, and the names of those that they are tied to."""
    embeddings: tuple[str, ...]
    """Tensors with a row per token."""
    order: tuple[str, ...]
    """All names, in the order in which the model has them."""
    untied: bool = False
    """Whether the config ties tensors that are stored with different values: transformers does not tie them then."""
    built: Any = None
    """The model on the meta device."""

    @property
    def head_is_tied(self) -> bool:
        """Whether the head is tied to the embeddings."""
        ends = [self.built.get_input_embeddings(), self.built.get_output_embeddings()] if self.built else []
        weights = [end.weight for end in ends if isinstance(end, nn.Module) and hasattr(end, "weight")]
        return not self.untied and len(weights) == 2 and weights[0] is weights[1]


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
        """Digest of the files' names, sizes and dates and of the tensors' places."""
        files = {place.file for place in self.places.values()}
        dates = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        layout = [(name, place.start, place.shape, str(place.dtype)) for name, place in self.places.items()]
        return hashlib.sha256(repr((dates, layout)).encode()).hexdigest()


def inspect_model(
    model: ModelLike, trust_remote_code: bool = False, like: tuple[Model, Outline] | None = None
) -> tuple[Model, Outline]:
    """Inspect the files of a folder, a hub id or a loaded checkpoint, and the tensors of its class.

    Args:
        model: folder, hub id or loaded checkpoint.
        trust_remote_code: run code that came with it.
        like: one that was inspected before, whose class it has where their configs are equal.
    """
    name, revision = str(as_recorded(model)), getattr(model, "revision", None)
    settings = read_settings(name, revision)
    refuse_quantised(name, settings)
    with one_sentence(name, "the files"):
        folder = download(name, revision)
    check_files(folder)
    note_adapter(folder)
    same = like is not None and _shape(like[0].settings) == _shape(settings)
    built = like[1].built if like and same else skeleton(name, folder, settings, trust_remote_code)
    found = tensor_places(folder)
    outline = outline_of(built, found)
    refuse_misfit(_fit(name, settings, built, found))
    if built is None and (lost := absent(folder, found)):
        raise InputError(f"{lost[0]} is in the index of {name} and in none of its files: get the complete folder")
    return Model(name, folder, settings, without_copies(found, outline.tied)), outline


def _shape(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the fields that don't concern its tensors."""
    return {
        key: value for key, value in settings.items() if key not in ("dtype", "torch_dtype", "transformers_version")
    }


def skeleton(name: str, folder: Path, settings: Mapping[str, Any], trust_remote_code: bool) -> Any:
    """Build the model of a folder on the meta device; None for a class that is not available.

    Raises:
        InputError: for a class of transformers that can't be built: the result would not load either.
    """
    if settings["model_type"] in CONFIG_MAPPING:
        config = read_config(str(folder), trust_remote_code=trust_remote_code)
        if any(hasattr(transformers, each) for each in classes(settings)[:1]):
            with one_sentence(name, "the model"):
                return _without_numbers(config, trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        return _without_numbers(config, trust_remote_code)
    except LIBRARY_ERRORS:
        return None


def _without_numbers(config: Any, trust_remote_code: bool) -> Any:
    with torch.device("meta"):
        model = _built(config, trust_remote_code)
    model.tie_weights()
    return model


def outline_of(model: Any, found: Mapping[str, Place]) -> Outline:
    """The tensors of a model's class, under the names that they have in its files.

    Args:
        model: on the meta device; None where its class is not known.
        found: the tensors in the files.
    """
    if model is None:
        return Outline({}, (), ())
    stored = {made.name: key for key, made in made_of(model, found).items()}
    names: dict[int, str] = {}
    twice = {}
    for each, parameter in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), each)
        if first != each:
            twice[stored.get(each, each)] = stored.get(first, first)
    other = [copy for copy, first in twice.items() if _differ(found, copy, first, model.config.dtype)]
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    rows = {id(value) for end in ends if isinstance(end, nn.Module) for value in end.parameters()}
    embeddings = [stored.get(each, each) for key, each in names.items() if key in rows]
    embeddings += [copy for copy in other if twice[copy] in embeddings]
    order = (*(stored.get(each, each) for each in names.values()), *other)
    tied = {copy: first for copy, first in twice.items() if copy not in other}
    return Outline(tied, tuple(embeddings), order, bool(other), model)


def _differ(found: Mapping[str, Place], copy: str, first: str, dtype: Any) -> bool:
    """Whether two tied tensors are both stored, with different values in the model's dtype."""
    return copy in found and first in found and not equal_values(found[copy], found[first], dtype)


def _fit(name: str, settings: Mapping[str, Any], model: Any, found: Mapping[str, Place]) -> Fit:
    """Compare the stored tensors with those of the model."""
    if model is None:
        return Fit(name, settings, unexpected=tuple(found))
    made = made_of(model, found)
    known = {each: tuple(tensor.shape) for each, tensor in model.state_dict().items()}
    filled = frozenset[str]().union(*(each.names for each in made.values()))
    tensors = {id(tensor) for each, tensor in model.named_parameters(remove_duplicate=False) if each in filled}
    ignored = [re.compile(each) for each in model._keys_to_ignore_on_load_missing or ()]
    lacking = [each for each, tensor in model.named_parameters() if id(tensor) not in tensors]
    missing = [each for each in lacking if not any(pattern.search(each) for pattern in ignored)]
    unexpected = [key for key, each in made.items() if not each.names & known.keys()]
    renamed = [(each.name, found[key].shape) for key, each in made.items() if each.name in known]
    return Fit(name, settings, missing, unexpected, [(to, has, known[to]) for to, has in renamed if has != known[to]])


def _built(config: Any, trust_remote_code: bool) -> Any:
    known = getattr(transformers, (config.architectures or [""])[0], None)
    if known is not None:
        return known._from_config(config)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def without_copies(found: Mapping[str, Place], tied: Mapping[str, str]) -> dict[str, Place]:
    """Tensors under their first names; a tied one that is stored twice is there once."""
    firsts = [(name, tied.get(name, name), place) for name, place in found.items()]
    return {first: place for name, first, place in firsts if name == first or first not in found}


# Comparison -----------------------------------------------------------------------------------------------------------


def refuse_mismatched_tensors(
    first: Model, others: Sequence[Model], embeddings: Sequence[str] = (), by_token: bool = False
) -> None:
    """Raise for models that do not have the same tensors.

    Args:
        first: what the others are compared with: the base, if there is one.
        others: the models.
        embeddings: tensors with a row per token.
        by_token: whether those are merged by token, so that they may have another number of rows.
    """
    for other in others:
        _refuse_names(first, other)
        for name, place in first.places.items():
            shapes = (first, place.shape), (other, other.places[name].shape)
            _refuse_shape(name, *shapes, by_token if name in embeddings else None)


def _refuse_names(first: Model, other: Model) -> None:
    for has, lacks in ((first, other), (other, first)):
        missing = [name for name in has.places if name not in lacks.places]
        if missing:
            raise InputError(
                f"{missing[0]} is in {has.name} and not in {lacks.name}: only models with equal tensors can be merged"
            )


def _refuse_shape(
    name: str, one: tuple[Model, tuple[int, ...]], two: tuple[Model, tuple[int, ...]], by_token: bool | None
) -> None:
    """Refuse two shapes that differ; ``by_token`` is None where rows are no tokens."""
    (first, shape), (second, other) = one, two
    rows = by_token is not None and shape[1:] == other[1:]
    if shape == other or (rows and by_token):
        return
    advice = "only equal shapes can be merged"
    if rows:
        advice = f"{option('tokenizer', 'base')} or union merges them by token"
    raise InputError(f"{name} is {list(shape)} in {first.name} and {list(other)} in {second.name}: {advice}")
