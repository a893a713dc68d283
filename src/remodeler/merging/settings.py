"""Numbers that may differ by model, by depth and by tensor: what a person writes, and what it is for one tensor.

A setting is a list of alternatives; the first whose filter is in a tensor's name counts. A value is one number, or
several that are spread over the depth of the model and interpolated (mergekit's gradients). On the command line:
``0.3``, ``0:0.5:1``, ``self_attn=0:1,mlp=0.5,0.2``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remodeler.errors import InputError
from remodeler.merging.methods import ZERO_WEIGHT
from remodeler.merging.table import PER_MODEL, Method

Alternatives = tuple[tuple[str, tuple[float, ...]], ...]
"""Filters (an empty one lets every name through) and values along the depth."""


@dataclass(frozen=True)
class Setting:
    """A number that may depend on a tensor's name and depth; 1 and 0 stand for true and false."""

    alternatives: Alternatives
    required: bool = False
    """Whether a tensor that no filter lets through is an error; else it has the method's default."""

    def __str__(self) -> str:
        told = [(f"{name}=" if name else "") + ":".join(f"{each:g}" for each in row) for name, row in self.alternatives]
        return ",".join(told)

    def row(self, name: str) -> tuple[float, ...] | None:
        """The values along the depth for a tensor; None where no filter lets it through."""
        return next((values for part, values in self.alternatives if part in name), None)

    def at(self, name: str, depth: float) -> float | None:
        """The number for a tensor, at a depth from 0 to 1; None where no filter lets it through."""
        values = self.row(name)
        return None if values is None else along(values, depth)

    def is_on(self, name: str, depth: float) -> bool:
        """Whether it is true for a tensor: of several values along the depth, the last that is reached."""
        values = self.row(name)
        return values is not None and bool(values[int(depth * (len(values) - 1))])


def along(values: Sequence[float], depth: float) -> float:
    """Linear interpolation of values that are spread evenly over the depth."""
    place = depth * (len(values) - 1)
    low = min(int(place), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    share = place - low
    return values[low] * (1 - share) + values[high] * share if share else values[low]


def parsed(option: str, text: str) -> Setting:
    """A setting as it is written on the command line."""
    alternatives = []
    for part in text.split(","):
        name, _, values = part.rpartition("=")
        try:
            alternatives.append((name.strip(), _numbers(values.split(":"))))
        except ValueError:
            raise InputError(
                f"--{option} {text!r} was given, a number, a gradient as 0:0.5:1 or FILTER=NUMBER,... was expected"
            ) from None
    return Setting(tuple(alternatives))


def _numbers(texts: Sequence[str]) -> tuple[float, ...]:
    numbers = tuple(map(float, texts))
    if not all(map(math.isfinite, numbers)):
        raise ValueError("NaN or infinity")
    return numbers


Options = Mapping[str, Any]
"""By name: a list of settings (one a model), one setting, or the bool or word itself."""


def completed(method: Method, name: str, given: Mapping[str, Any], models: int) -> dict[str, Any]:
    """A method's options as settings: those given, one for all models or one each, and the defaults.

    Raises:
        InputError: for an option that the method does not have, or another number of values than models.
    """
    if unknown := sorted(given.keys() - method.options.keys()):
        takes = ", ".join(method.options)
        raise InputError(f"--{unknown[0]} was given, which {name} does not take: it takes {takes}")
    options: dict[str, Any] = {}
    for option, default in method.options.items():
        value = given.get(option, default)
        if isinstance(default, bool | str):
            options[option] = _word(option, value, method)
        elif option in PER_MODEL:
            options[option] = _each(option, value, models)
        else:
            options[option] = value[0] if isinstance(value, list | tuple) else _setting(value)
    return options


def _word(option: str, value: Any, method: Method) -> bool | str | Setting:
    if isinstance(method.options[option], bool):
        return value if isinstance(value, Setting) else bool(value)
    choices = method.choices.get(option)
    if choices is not None and value not in choices:
        raise InputError(f"--{option} {value!r} is not known: choose {', '.join(choices)}")
    return str(value)


def _each(option: str, value: Any, models: int) -> list[Setting]:
    every = list(value) if isinstance(value, list | tuple) else [_setting(value)]
    if len(every) not in (1, models):
        raise InputError(f"--{option} was given {len(every)} times for {models} models: give it once, or once a model")
    return every * models if len(every) == 1 else every


def _setting(value: Any) -> Setting:
    return value if isinstance(value, Setting) else Setting((("", (float(value),)),))


def values(method: Method, options: Options, name: str, depth: float) -> dict[str, Any]:
    """The options of a method for one tensor."""
    found: dict[str, Any] = dict(method.fixed)
    for option, value in options.items():
        if isinstance(value, list):
            found[option] = [_at(option, each, name, depth, method) for each in value]
        elif isinstance(value, Setting) and isinstance(method.options[option], bool):
            found[option] = value.is_on(name, depth)
        elif isinstance(value, Setting):
            found[option] = _at(option, value, name, depth, method)
        else:
            found[option] = value
    _refuse(method, found, name)
    return found


def _at(option: str, setting: Setting, name: str, depth: float, method: Method) -> float:
    value = setting.at(name, depth)
    if value is None and setting.required:
        raise InputError(
            f"{option} is not given for {name}, and mergekit has no default for it: add one without filter"
        )
    return float(method.options[option]) if value is None else value


RANGES = {"density": (0.0, 1.0), "gamma": (0.0, 1.0), "epsilon": (0.0, 1.0), "t": (0.0, 1.0), "select": (0.0, 1.0)}


def _refuse(method: Method, found: Mapping[str, Any], name: str) -> None:
    for option, (low, high) in RANGES.items():
        for value in found[option] if isinstance(found.get(option), list) else [found.get(option, low)]:
            if not low <= value <= high:
                known = "select (select_topk in mergekit's files)" if option == "select" else option
                raise InputError(f"{known} is {value:g} for {name}: choose a number from {low:g} to {high:g}")
    if "epsilon" in found:
        for density, reach in zip(found["density"], found["epsilon"], strict=True):
            if 0 < density < 1 and (density - reach < 0 or density + reach > 1):
                raise InputError(f"density {density:g} with epsilon {reach:g} leaves 0 to 1: choose a smaller epsilon")
    if not method.needs_base and "weight" in found and found["normalize"] and abs(sum(found["weight"])) < ZERO_WEIGHT:
        raise InputError(f"the weights of {name} sum to 0: give others, or do not normalize")
