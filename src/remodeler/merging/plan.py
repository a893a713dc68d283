"""A merge looked at before anything is written: its checkpoints, what the result looks like, what is refused."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch

from remodeler.checkpoint.load import pick_dtype
from remodeler.checkpoint.sizes import announce_space
from remodeler.errors import InputError
from remodeler.merging.config import Wish
from remodeler.merging.differences import tell_differences
from remodeler.merging.files import Place
from remodeler.merging.inputs import Model, Outline, opened, refuse_strangers
from remodeler.merging.settings import Setting, completed, values
from remodeler.merging.table import Method, method_named
from remodeler.merging.tokens import MergekitRules, Vocabulary, common_vocabulary, warn_of_strangers
from remodeler.report.figures import size as sized

logger = logging.getLogger(__name__)

LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Plan:
    """Everything looked at, nothing written yet."""

    wish: Wish
    method: Method
    models: tuple[Model, ...]
    base: Model | None
    outline: Outline
    vocabulary: Vocabulary | None
    options: Mapping[str, Any]
    shapes: Mapping[str, Place]
    """Shape and dtype of every tensor of the result."""

    @property
    def lender(self) -> Model:
        """The model whose layout, config and tokenizer the result has."""
        return self.base or self.models[0]

    @property
    def everybody(self) -> tuple[Model, ...]:
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

    def values(self, name: str) -> dict[str, Any]:
        """The method's options for a tensor."""
        return values(self.method, self.options, name, depth_of(self, name))

    @property
    def name(self) -> str:
        """The method's name."""
        own = self.wish.method
        return own if isinstance(own, str) else getattr(own.combine, "__name__", "function")


def prepared(wish: Wish) -> Plan:
    """Look at all checkpoints; refuse what can't work."""
    method = method_named(wish.method) if isinstance(wish.method, str) else wish.method
    _refuse_wish(wish, method)
    seen: list[tuple[Model, Outline]] = []
    for name in (*([wish.base] if wish.base else []), *wish.models):
        seen.append(opened(name, wish.trust_remote_code, seen[0] if seen else None))
    every, outline = [model for model, _ in seen], seen[0][1]
    for model, other in seen[1:]:
        if bool(other.tied) != bool(outline.tied):
            raise InputError(f"of {every[0].name} and {model.name} only one ties its embeddings: they can't be merged")
    if wish.tokenizer and not outline.embeddings:
        raise InputError(f"which tensors of {every[0].name} have a row a token is not known: leave --tokenizer out")
    refuse_strangers(every[0], every[1:], outline.embeddings, wish.tokenizer is not None)
    tell_differences(seen)
    vocabulary = _vocabulary(wish, every, outline)
    base, models = (every[0], every[1:]) if wish.base else (None, every)
    name = wish.method if isinstance(wish.method, str) else "this method"
    options = completed(method, name, wish.options, len(models))
    shapes = _shapes(wish, every, outline, vocabulary)
    plan = Plan(wish, method, tuple(models), base, outline, vocabulary, options, shapes)
    _refuse_layers(plan)
    for each in shapes:  # now, not in the middle
        plan.values(each)
    _note_unmatched(plan)
    return plan


def _refuse_layers(plan: Plan) -> None:
    """Raise for a file that takes some of the layers."""
    wanted = plan.wish.mergekit.layers if plan.wish.mergekit else None
    found = max(plan.last_layers.values(), default=-1) + 1
    if wanted not in (None, found):
        raise InputError(
            f"layer_range takes {wanted} layers of {plan.lender.name}, which has {found}: only whole models are merged"
        )


def _note_unmatched(plan: Plan) -> None:
    """Say which filters are part of no tensor's name: most often they are misspelt."""
    settings = [(option, each) for option, value in plan.options.items() for each in _settings(value)]
    parts = dict.fromkeys((option, part) for option, each in settings for part, _ in each.alternatives)
    for option, part in parts:
        if not any(part in name for name in plan.shapes):
            logger.warning(
                f"the filter {part!r} of {option} is in no tensor's name of {plan.lender.name}: it changes nothing"
            )


def _settings(value: Any) -> list[Setting]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, Setting)]


def _refuse_wish(wish: Wish, method: Method) -> None:
    name = wish.method if isinstance(wish.method, str) else "this method"
    if len(wish.models) < 1 or (method.models or 1) > len(wish.models) or len(wish.models) > (method.models or 10**6):
        wanted = f"exactly {method.models}" if method.models else "at least one"
        raise InputError(f"{len(wish.models)} models were given, {name} merges {wanted}: give that many")
    if method.needs_base and not wish.base:
        raise InputError(f"{name} needs the model that the others were made from: name it with --base")
    if wish.base and not method.needs_base and wish.tokenizer is None:
        raise InputError(f"--base was given, which {name} has no use for: list it among the models, or leave it out")
    if wish.base in wish.models:
        raise InputError(f"{wish.base} is the base and one of the models, where it changed nothing: leave it out there")
    if wish.tokenizer not in (None, "base", "union"):
        raise InputError(f"--tokenizer {wish.tokenizer!r} is not known: choose base or union")


def _vocabulary(wish: Wish, every: Sequence[Model], outline: Outline) -> Vocabulary | None:
    folders = [model.folder for model in every]
    if wish.tokenizer is None:
        warn_of_strangers(folders, wish.trust_remote_code)
        return None
    sizes = [model.places[outline.embeddings[0]].shape[0] for model in every]
    rules = None
    if extra := wish.mergekit:
        names = [model.name for model in every]
        rules = MergekitRules(extra.pad_to_multiple_of, extra.has_base, extra.tokens, names)
    return common_vocabulary(folders, sizes, wish.tokenizer == "union", wish.trust_remote_code, rules)


def _shapes(wish: Wish, every: Sequence[Model], outline: Outline, vocabulary: Vocabulary | None) -> dict[str, Place]:
    """What the result's tensors look like, in the order of the first model's files."""
    shapes = {}
    for name, place in every[0].places.items():
        rows = (vocabulary.rows, *place.shape[1:]) if vocabulary and name in outline.embeddings else place.shape
        shapes[name] = replace(place, shape=rows, dtype=_dtype(wish, [model.places[name].dtype for model in every]))
    return shapes


def _dtype(wish: Wish, stored: Sequence[torch.dtype]) -> torch.dtype:
    """What a tensor is written in, of those that the models have."""
    if not stored[0].is_floating_point:
        return stored[0]
    if isinstance(dtype := pick_dtype(wish.dtype), torch.dtype):
        return dtype
    return reduce(torch.promote_types, stored) if wish.mergekit else stored[0]


def depth_of(plan: Plan, name: str) -> float:
    """Where a tensor is between the first layer of its stack (0) and the last (1)."""
    found = LAYER.search(name)
    if found:
        last = plan.last_layers[name[: found.start()]]
        return int(found.group(1)) / last if last else 1.0
    return float(name in plan.behind and not plan.wish.mergekit)


def announce(plan: Plan, out: Path) -> None:
    """Say what will be read and written, and where too little space is left for it."""
    read = sum(place.bytes for model in plan.everybody for place in model.places.values())
    written = sum(place.bytes for place in plan.shapes.values())
    logger.info(
        f"{len(plan.models)} models{' and their base' if plan.base else ''}, {len(plan.shapes)} tensors: "
        f"{sized(read)} to read (passes: {plan.method.passes}), {sized(written)} to write, by {plan.name}"
    )
    announce_space(out, written)


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to; one outside of layers is a unit of its own."""
    found = LAYER.search(name)
    return name[: found.end() - 1] if found else name
