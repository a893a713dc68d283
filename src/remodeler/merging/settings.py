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
from remodeler.merging.table import CHOICES, PER_MODEL, Method


@dataclass(frozen=True)
class Setting:
    """A number that may depend on a tensor's name and depth."""

    alternatives: tuple[tuple[str, tuple[float, ...]], ...]
    """Filters (an empty one lets every name through) and values along the depth."""

    def __str__(self) -> str:
        told = [(f"{name}=" if name else "") + ":".join(f"{each:g}" for each in row) for name, row in self.alternatives]
        return ",".join(told)

    def at(self, name: str, depth: float) -> float | None:
        """The number for a tensor, at a depth from 0 to 1; None where no filter lets it through."""
        values = next((values for part, values in self.alternatives if part in name), None)
        return None if values is None else along(values, depth)


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


def from_yaml(option: str, value: Any) -> Setting:
    """A setting as mergekit's files have it: a number, a list of numbers, or conditions with filters."""
    try:
        if isinstance(value, Mapping):
            value = [value]
        if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
            return Setting(tuple((_filter(each), _numbers(each["value"])) for each in value))
        return Setting((("", _numbers(value)),))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise InputError(f"parameter {option} is {value!r:.60}: a number, numbers or filters were expected") from None


def _filter(condition: Mapping[str, Any]) -> str:
    name = str(condition.get("filter") or "")
    return "" if name == "*" else name


def _numbers(value: Any) -> tuple[float, ...]:
    numbers = tuple(float(each) for each in (value if isinstance(value, list) else [value]))
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
            options[option] = _word(option, value, default)
        elif option in PER_MODEL:
            options[option] = _each(option, value, models)
        else:
            options[option] = value[0] if isinstance(value, list | tuple) else _setting(value)
    return options


def _word(option: str, value: Any, default: bool | str) -> bool | str:
    if isinstance(default, bool):
        return bool(value)
    if value not in CHOICES[option]:
        raise InputError(f"--{option} {value!r} is not known: choose {', '.join(CHOICES[option])}")
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
        elif isinstance(value, Setting):
            found[option] = _at(option, value, name, depth, method)
        else:
            found[option] = value
    _refuse(method, found, name)
    return found


def _at(option: str, setting: Setting, name: str, depth: float, method: Method) -> float:
    value = setting.at(name, depth)
    return float(method.options[option]) if value is None else value


RANGES = {"density": (0.0, 1.0), "gamma": (0.0, 1.0), "epsilon": (0.0, 1.0), "t": (0.0, 1.0), "select": (0.0, 1.0)}


def _refuse(method: Method, found: Mapping[str, Any], name: str) -> None:
    for option, (low, high) in RANGES.items():
        for value in found[option] if isinstance(found.get(option), list) else [found.get(option, low)]:
            if not low <= value <= high:
                raise InputError(f"--{option} is {value:g} for {name}: choose a number from {low:g} to {high:g}")
    if "epsilon" in found:
        for density, reach in zip(found["density"], found["epsilon"], strict=True):
            if density - reach < 0 or density + reach > 1:
                raise InputError(
                    f"--density {density:g} with --epsilon {reach:g} leaves 0 to 1: choose a smaller --epsilon"
                )
    if not method.needs_base and "weight" in found and found["normalize"] and not sum(found["weight"]):
        raise InputError(f"the weights of {name} sum to 0: give others, or --no-normalize")
