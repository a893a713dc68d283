"""Python functions of verbs: their signatures come from configs, like the options of the command line."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING
from functools import wraps
from typing import Any, TypeVar, cast

from remodeler.errors import InputError, option
from remodeler.runs.options import Spec, specs

F = TypeVar("F", bound=Callable[..., Any])


def with_signature(kind: type, *others: str) -> Callable[[F], F]:
    """Give a function that takes ``**options`` of a config the signature that they make, for help and completion.

    It refuses those of the command line.

    Args:
        kind: the config.
        others: options that the function's own parameters stand for under other names.
    """

    def decorate(function: F) -> F:
        given = inspect.signature(function)
        own = [each for each in given.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        spared = {spec.name for spec in specs(kind) if spec.option.command_only}
        hidden = {*others, *spared, *(each.name for each in own)}
        shown = [spec for spec in specs(kind) if spec.name not in hidden]
        shown.sort(key=lambda spec: not spec.option.positional)
        signature = given.replace(parameters=[*own, *(_parameter(spec, not own) for spec in shown)])

        @wraps(function)
        def checked(*args: Any, **options: Any) -> Any:
            for name in spared & options.keys():
                raise InputError(f"{option(name)} is an option of the command line only: leave it out")
            return function(*args, **options)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return cast(F, checked)

    return decorate


def _parameter(spec: Spec, first: bool) -> inspect.Parameter:
    positional = spec.option.positional and first
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if spec.default is MISSING else spec.default
    return inspect.Parameter(spec.name, kind, default=default, annotation=spec.type)
