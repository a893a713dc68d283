"""A method's options: completed with its defaults, and what they are for one tensor."""

from collections.abc import Mapping
from typing import Any

from remodeler.errors import InputError, option, quantity
from remodeler.merging.methods import ZERO_WEIGHT
from remodeler.merging.numbers import Setting, as_setting
from remodeler.merging.table import PER_MODEL, Method

Options = Mapping[str, Any]
"""By name: a list of settings (one a model), one setting, or the bool or word itself."""


def complete_options(method: Method, name: str, given: Mapping[str, Any], models: int) -> dict[str, Any]:
    """A method's options as settings: those given, one for all models or one each, and the defaults.

    Raises:
        InputError: for an option that the method does not have, or another number of values than models.
    """
    if unknown := sorted(given.keys() - method.options.keys()):
        takes = ", ".join(method.options)
        raise InputError(f"{option(unknown[0])} was given, which {name} does not take: it takes {takes}")
    options: dict[str, Any] = {}
    for key, default in method.options.items():
        value = given.get(key, default)
        if isinstance(default, bool | str):
            options[key] = _word(key, value, method)
        elif key in PER_MODEL:
            options[key] = _per_model(key, value, models)
        else:
            options[key] = as_setting(value)
    return options


def _word(key: str, value: Any, method: Method) -> bool | str | Setting:
    if isinstance(method.options[key], bool):
        return value if isinstance(value, Setting) else bool(value)
    choices = method.choices.get(key)
    if choices is not None and value not in choices:
        raise InputError(f"{option(key)} {value!r} is unknown: choose {', '.join(choices)}")
    return str(value)


def _per_model(key: str, value: Any, models: int) -> list[Setting]:
    every = [as_setting(each) for each in (value if isinstance(value, list | tuple) else [value])]
    if len(every) not in (1, models):
        raise InputError(
            f"{option(key)} was given {quantity(len(every), 'time')} for {quantity(models, 'model')}: give it once, or "
            "once per model"
        )
    return every * models if len(every) == 1 else every


def options_for(method: Method, options: Options, name: str, depth: float) -> dict[str, Any]:
    """The options of a method for one tensor."""
    found: dict[str, Any] = dict(method.fixed)
    for key, value in options.items():
        if isinstance(value, list):
            found[key] = [_at(key, each, name, depth, method) for each in value]
        elif isinstance(value, Setting) and isinstance(method.options[key], bool):
            found[key] = value.is_on(name, depth)
        elif isinstance(value, Setting):
            found[key] = _at(key, value, name, depth, method)
        else:
            found[key] = value
    _refuse(method, found, name)
    return found


def _at(key: str, setting: Setting, name: str, depth: float, method: Method) -> float:
    value = setting.at(name, depth)
    if value is None and setting.required:
        raise InputError(f"{key} is not given for {name}, and mergekit has no default for it: add one without filter")
    return float(method.options[key]) if value is None else value


RANGES = {"density": (0.0, 1.0), "gamma": (0.0, 1.0), "epsilon": (0.0, 1.0), "t": (0.0, 1.0), "select": (0.0, 1.0)}


def _refuse(method: Method, found: Mapping[str, Any], name: str) -> None:
    for key, (low, high) in RANGES.items():
        for value in found[key] if isinstance(found.get(key), list) else [found.get(key, low)]:
            if not low <= value <= high:
                known = "select (select_topk in mergekit's files)" if key == "select" else key
                raise InputError(f"{known} is {value:g} for {name}: choose a number from {low:g} to {high:g}")
    if "epsilon" in found:
        for density, reach in zip(found["density"], found["epsilon"], strict=True):
            if 0 < density < 1 and (density - reach < 0 or density + reach > 1):
                raise InputError(f"density {density:g} with epsilon {reach:g} leaves 0 to 1: choose a smaller epsilon")
    if not method.needs_base and "weight" in found and found["normalize"] and abs(sum(found["weight"])) < ZERO_WEIGHT:
        raise InputError(f"the weights of {name} sum to 0: give others, or do not normalize")
