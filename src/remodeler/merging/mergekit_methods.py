"""The mergekit methods that are supported: the parameters of each, with mergekit's names, scopes and defaults.

Read from mergekit 0.1.5 (``merge_methods/`` and ``parameter_resolver.py``). A parameter is looked for in the model's
own parameters (where the method has it for each model), then in the slice's, then in the file's; in each, the first
condition whose filter is part of the tensor's name counts, and where none does, the next place is looked at.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remodeler.errors import InputError
from remodeler.merging.numbers import Alternatives, Setting

Parameters = Mapping[str, Alternatives]
"""By mergekit's names."""


@dataclass(frozen=True)
class Source:
    """A model of a file, with the parameters that are given for it alone."""

    model: str
    parameters: Parameters


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method in mergekit."""

    option: str
    """Our name for it; empty for one without effect on the result."""
    default: float | bool | None = None
    """None where mergekit has none, so that a file must give it."""
    per_model: bool = False
    only: bool | None = None
    """The one value that is acted on, where not all are."""

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false."""
        return isinstance(self.default, bool)


WEIGHT = Parameter("weight", per_model=True)
DENSITY = Parameter("density", 1.0, per_model=True)
RESCALE = Parameter("rescale", True)
NO_RESCALE = Parameter("", False, only=False)
MEMORY_ONLY = Parameter("", False)
"""Of ``int8_mask``: how masks are held in memory."""


def _of_changes(normalize: bool, **more: Parameter) -> dict[str, Parameter]:
    return {
        "weight": WEIGHT,
        "lambda": Parameter("scale", 1.0),
        "normalize": Parameter("normalize", normalize),
        "density": DENSITY,
        **more,
    }


NOTHING_DROPPED = {"density": Parameter("", 1.0, per_model=True), "rescale": Parameter("", False)}
OUTLIERS = {"gamma": Parameter("gamma", 0.01, per_model=True), "rescale": NO_RESCALE}
BY_RANK = {"epsilon": Parameter("epsilon", 0.15, per_model=True), "rescale": RESCALE}

PARAMETERS: dict[str, dict[str, Parameter]] = {
    name: parameters | {"int8_mask": MEMORY_ONLY}
    for name, parameters in {
        "linear": {"weight": WEIGHT, "normalize": Parameter("normalize", True)},
        "slerp": {"t": Parameter("t")},
        "task_arithmetic": _of_changes(False, **NOTHING_DROPPED),
        "ties": _of_changes(True, rescale=NO_RESCALE),
        "breadcrumbs": _of_changes(False, **OUTLIERS),
        "breadcrumbs_ties": _of_changes(False, **OUTLIERS),
        "dare_linear": _of_changes(False, rescale=RESCALE),
        "dare_ties": _of_changes(False, rescale=RESCALE),
        "della_linear": _of_changes(False, **BY_RANK),
        "della": _of_changes(True, **BY_RANK),
        "sce": {"select_topk": Parameter("select", 1.0)},
    }.items()
}
VARIANTS = ("slerp", "dare_linear", "dare_ties", "della_linear", "della", "sce")
"""Methods that have a variant which computes as mergekit does."""

TRUE, FALSE = ("true", "yes", "on", "t", "y", "1"), ("false", "no", "off", "f", "n", "0")
WORDS = dict.fromkeys(TRUE, 1.0) | dict.fromkeys(FALSE, 0.0)


def alternatives(value: Any, switch: bool) -> Alternatives:
    """A value as a file has it: a number (or true and false), numbers along the depth, or conditions with filters.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict) for each in value)):
        return tuple(_condition(each, switch) for each in (value if isinstance(value, list) else [value]))
    return (("", _numbers(value, switch)),)


def _condition(value: Any, switch: bool) -> tuple[str, tuple[float, ...]]:
    if not isinstance(value, dict) or "value" not in value:
        raise ValueError(f"{reprlib.repr(value)} is not a condition with a filter and a value")
    if unknown := [key for key in value if key not in ("filter", "value")]:
        raise ValueError(f"it has {reprlib.repr(unknown[0])}, which is not read here")
    part = value.get("filter")
    if not isinstance(part, str | None):
        raise ValueError(f"the filter {reprlib.repr(part)} is not a text")
    return "" if part in (None, "*") else part, _numbers(value["value"], switch)


def _numbers(value: Any, switch: bool) -> tuple[float, ...]:
    row = value if isinstance(value, list) else [value]
    if not row:
        raise ValueError("the list is empty")
    return tuple(_switched(each) if switch else _number(each) for each in row)


def _number(value: Any) -> float:
    try:
        number = float(value)  # mergekit takes numbers written as text, and true for 1
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{reprlib.repr(value)} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


def _switched(value: Any) -> float:
    found = WORDS.get(str(value).lower()) if isinstance(value, bool | int | str) else None
    if found is None:
        raise ValueError(f"{reprlib.repr(value)} is neither true nor false")
    return found


def options_of(method: str, models: Sequence[Source], common: Parameters) -> dict[str, Any]:
    """Our options for a method of a file, with mergekit's defaults.

    Args:
        method: its name.
        models: those that have parameters: without the base, where the method merges changes.
        common: parameters for all of them.

    Raises:
        InputError: naming a parameter that must be given and is not.
    """
    found: dict[str, Any] = {"variant": "mergekit"} if method in VARIANTS else {}
    for name, parameter in PARAMETERS[method].items():
        if not parameter.option:
            continue
        shared = common.get(name, ())
        if parameter.per_model:
            found[parameter.option] = [
                _setting(f"{name} for {each.model}", parameter, each.parameters.get(name, ()) + shared)
                for each in models
            ]
        else:
            setting = _setting(name, parameter, shared)
            found[parameter.option] = _constant(setting) if parameter.is_switch else setting
    return found


def _setting(name: str, parameter: Parameter, given: Alternatives) -> Setting:
    if parameter.default is not None:
        given = (*given, ("", (float(parameter.default),)))
    if not given:
        raise InputError(f"gives no {name}, and mergekit has no default for it: add one")
    last = next((place for place, (part, _) in enumerate(given) if not part), len(given))
    return Setting(given[: last + 1], required=True)


def _constant(setting: Setting) -> bool | Setting:
    """A switch that is the same everywhere, as a bool."""
    (part, row), *more = setting.alternatives
    return setting if part or len(row) > 1 or more else bool(row[0])
