"""The plan of a merge, made before anything is written: its checkpoints, the shape of the result, what is refused."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch

from remodeler.checkpoint.devices import pick_dtype
from remodeler.checkpoint.sizes import announce_space
from remodeler.errors import InputError, option, quantity
from remodeler.merging.config import MergeConfig
from remodeler.merging.differences import report_differences
from remodeler.merging.files import Place
from remodeler.merging.from_mergekit import resolve_file
from remodeler.merging.inputs import Model, Outline, inspect_model, refuse_mismatched_tensors
from remodeler.merging.numbers import Setting
from remodeler.merging.settings import complete_options, options_for
from remodeler.merging.table import METHODS, Method
from remodeler.merging.tokens import (
    MergekitRules,
    Vocabulary,
    common_vocabulary,
    warn_of_mismatched_vocabularies,
)
from remodeler.reporting.figures import size as format_size
from remodeler.runs.options import as_recorded

logger = logging.getLogger(__name__)

DEFAULT_METHOD = "linear"
LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Plan:
    """Everything inspected, nothing written yet."""

    config: MergeConfig
    """With the contents of its file in the place of the file."""
    method: Method
    models: tuple[Model, ...]
    base: Model | None
    outline: Outline
    vocabulary: Vocabulary | None
    options: Mapping[str, Any]
    """Of the method, all of them."""
    shapes: Mapping[str, Place]
    """Shape and dtype of every tensor of the result."""

    @property
    def reference(self) -> Model:
        """The model whose layout, config and tokenizer the result has."""
        return self.base or self.models[0]

    @property
    def all_models(self) -> tuple[Model, ...]:
        """The base, then the models."""
        return (*([self.base] if self.base else []), *self.models)

    @cached_property
    def last_layers(self) -> Mapping[str, int]:
        """The highest number of a layer, by what the names of a stack of layers begin with."""
        found: dict[str, int] = {}
        for each in filter(None, map(LAYER.search, self.shapes)):
            stack = each.string[: each.start()]
            found[stack] = max(found.get(stack, 0), int(each.group(1)))
        return found

    @cached_property
    def behind(self) -> frozenset[str]:
        """Tensors outside of layers that a model has behind them: the last norm, the head."""
        order = self.outline.order
        first = next((place for place, name in enumerate(order) if LAYER.search(name)), 0)
        return frozenset(order[first + 1 :])

    def options_for(self, name: str) -> dict[str, Any]:
        """The method's options for a tensor."""
        return options_for(self.method, self.options, name, depth_of(self, name))

    @property
    def name(self) -> str:
        """The method's name."""
        return method_name(self.config)


def method_name(config: MergeConfig) -> str:
    """The name of a config's method; of one's own, that of its function."""
    method = config.method or DEFAULT_METHOD
    return method if isinstance(method, str) else getattr(method.combine, "__name__", "function")


def plan_merge(config: MergeConfig) -> Plan:
    """Inspect all checkpoints; refuse what can't work."""
    config = resolve_file(config)
    method = config.method or DEFAULT_METHOD
    method = METHODS[method] if isinstance(method, str) else method
    _refuse_models(config, method)
    found = _inspect_models(config)
    every, outline = [model for model, _ in found], found[0][1]
    refuse_mismatched_tensors(every[0], every[1:], outline.embeddings, config.tokenizer is not None)
    report_differences(found)
    vocabulary = _vocabulary(config, every, outline)
    base, models = (every[0], every[1:]) if config.base else (None, every)
    options = complete_options(method, method_name(config), config.method_options(), len(models))
    shapes = _shapes(config, every, outline, vocabulary)
    plan = Plan(config, method, tuple(models), base, outline, vocabulary, options, shapes)
    _refuse_layers(plan)
    for each in shapes:  # now, not in the middle
        plan.options_for(each)
    _warn_of_unmatched(plan)
    return plan


def _inspect_models(config: MergeConfig) -> list[tuple[Model, Outline]]:
    """The base, if there is one, and the models; refuse those that differ in what they tie."""
    found: list[tuple[Model, Outline]] = []
    for each in (*([config.base] if config.base else []), *config.models):
        found.append(inspect_model(each, config.trust_remote_code, found[0] if found else None))
    first, outline = found[0]
    for model, other in found[1:]:
        if bool(other.tied) != bool(outline.tied):
            raise InputError(f"of {first.name} and {model.name} only one ties its embeddings: they can't be merged")
    if config.tokenizer and not outline.embeddings:
        raise InputError(
            f"which tensors of {first.name} have a row per token is not known: leave {option('tokenizer')} out"
        )
    return found


def _refuse_layers(plan: Plan) -> None:
    """Raise for a file that takes some of the layers."""
    wanted = plan.config.mergekit.layers if plan.config.mergekit else None
    found = max(plan.last_layers.values(), default=-1) + 1
    if wanted not in (None, found):
        raise InputError(
            f"layer_range takes {wanted} layers of {plan.reference.name}, which has {found}: "
            "only whole models are merged"
        )


def _warn_of_unmatched(plan: Plan) -> None:
    """Warn of filters that match no tensor's name: most often they are misspelt."""
    settings = [(key, each) for key, value in plan.options.items() for each in _settings(value)]
    parts = dict.fromkeys((key, part) for key, each in settings for part, _ in each.alternatives)
    for key, part in parts:
        if not any(part in name for name in plan.shapes):
            logger.warning(
                f"the filter {part!r} of {key} is in no tensor's name of {plan.reference.name}: it changes nothing"
            )


def _settings(value: Any) -> list[Setting]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, Setting)]


def _refuse_models(config: MergeConfig, method: Method) -> None:
    """Raise for a number of models, or a base, that the method can't use."""
    name, count = method_name(config), len(config.models)
    if count < 1 or (method.models or 1) > count or count > (method.models or 10**6):
        wanted = f"exactly {method.models}" if method.models else "at least one"
        were = "was" if count == 1 else "were"
        raise InputError(f"{quantity(count, 'model')} {were} given, {name} merges {wanted}: give that many")
    if method.needs_base and not config.base:
        raise InputError(f"{name} needs the model that the others were trained from: name it with {option('base')}")
    if config.base and not method.needs_base and config.tokenizer is None:
        raise InputError(
            f"{option('base')} was given, which {name} has no use for: list it among the models, or leave it out"
        )
    base = as_recorded(config.base)
    if base in as_recorded(config.models):
        raise InputError(f"{base} is the base and one of the models, where it changed nothing: leave it out there")


def _vocabulary(config: MergeConfig, every: Sequence[Model], outline: Outline) -> Vocabulary | None:
    folders = [model.folder for model in every]
    if config.tokenizer is None:
        warn_of_mismatched_vocabularies(folders, config.trust_remote_code)
        return None
    sizes = [model.places[outline.embeddings[0]].shape[0] for model in every]
    rules = None
    if extra := config.mergekit:
        names = [model.name for model in every]
        rules = MergekitRules(extra.pad_to_multiple_of, extra.has_base, extra.tokens, names)
    return common_vocabulary(folders, sizes, config.tokenizer == "union", config.trust_remote_code, rules)


def _shapes(
    config: MergeConfig, every: Sequence[Model], outline: Outline, vocabulary: Vocabulary | None
) -> dict[str, Place]:
    """Shapes and dtypes of the result's tensors, in the order of the first model's files."""
    shapes = {}
    for name, place in every[0].places.items():
        rows = (vocabulary.rows, *place.shape[1:]) if vocabulary and name in outline.embeddings else place.shape
        shapes[name] = replace(place, shape=rows, dtype=_dtype(config, [model.places[name].dtype for model in every]))
    return shapes


def _dtype(config: MergeConfig, stored: Sequence[torch.dtype]) -> torch.dtype:
    """The dtype that a tensor is written in, from those of the models."""
    if not stored[0].is_floating_point:
        return stored[0]
    if isinstance(dtype := pick_dtype(config.dtype), torch.dtype):
        return dtype
    return reduce(torch.promote_types, stored) if config.mergekit else stored[0]


def depth_of(plan: Plan, name: str) -> float:
    """Where a tensor is between the first layer of its stack (0) and the last (1)."""
    found = LAYER.search(name)
    if found:
        last = plan.last_layers[name[: found.start()]]
        return int(found.group(1)) / last if last else 1.0
    return float(name in plan.behind and not plan.config.mergekit)


def announce(plan: Plan, out: Path) -> None:
    """Log what will be read and written, and warn where too little space is left."""
    read = sum(place.bytes for model in plan.all_models for place in model.places.values())
    written = sum(place.bytes for place in plan.shapes.values())
    logger.info(
        f"{quantity(len(plan.models), 'model')}{' and their base' if plan.base else ''}, {len(plan.shapes)} tensors: "
        f"{format_size(read)} to read (passes: {plan.method.passes}), {format_size(written)} to write, by {plan.name}"
    )
    announce_space(out, written)


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to; one outside of layers is a unit of its own."""
    found = LAYER.search(name)
    return name[: found.end() - 1] if found else name
