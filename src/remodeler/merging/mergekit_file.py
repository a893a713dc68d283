"""A YAML file written for mergekit, read key by key with mergekit's meaning and defaults.

Read from mergekit 0.1.5 (``config.py``, ``plan.py``, ``tokenizer/config.py``). An allow-list at every depth: what is
not acted on here is refused by name, also where mergekit itself would pass over it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.merging.mergekit_keys import checked, list_of, load_yaml, model_of, short
from remodeler.merging.mergekit_methods import PARAMETERS, Parameters, Source, alternatives
from remodeler.merging.mergekit_tokens import TokenRow, read_token_rows
from remodeler.merging.table import METHODS

logger = logging.getLogger(__name__)

TOP = (
    *("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype"),
    *("tokenizer_source", "tokenizer"),
)
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Vocabulary:
    """Whose tokens the result has, and where their rows come from."""

    source: str
    """``base`` or ``union``."""
    tokens: tuple[TokenRow, ...] = ()
    pad_to_multiple_of: int = 1


@dataclass(frozen=True)
class MergekitFile:
    """What a file asks for."""

    method: str
    base: str | None
    sources: tuple[Source, ...]
    """In the file's order; a base that ``models`` does not list comes last, as in mergekit."""
    common: Parameters
    """For all models: those of the slice, then those of the file."""
    layers: int | None
    """How many layers of each model are asked for; None for all."""
    dtype: str
    vocabulary: Vocabulary | None


def read_mergekit(path: Path) -> MergekitFile:
    """Read a file.

    Raises:
        InputError: for what is not YAML, and by name for what is not done here.
    """
    content = load_yaml(path)
    try:
        return _read(content)
    except InputError as error:
        raise InputError(f"{path} {error}") from None


def _read(content: Mapping[str, Any]) -> MergekitFile:
    checked("", content, TOP, ("modules", "chat_template"))
    method = content["merge_method"]
    if not isinstance(method, str) or method not in PARAMETERS:
        raise InputError(f"has merge_method {short(method)}, which is not known here: choose {', '.join(PARAMETERS)}")
    outer, part = _parts(content)
    base = _base(content, part)
    sources = [_source(where, each, method, bool(part)) for where, each in outer]
    common = [
        _parameters("slices[0].", part.get("parameters"), method),
        _parameters("", content.get("parameters"), method),
    ]
    first = base or sources[0].model
    if base and not part and base not in [each.model for each in sources]:
        sources.append(Source(base, {}))
    _refuse_models(method, base, [each.model for each in sources])
    _warn_of_unused(method, base, sources, common)
    return MergekitFile(
        method=method,
        base=base,
        sources=tuple(sources),
        common={name: common[0].get(name, ()) + common[1].get(name, ()) for name in PARAMETERS[method]},
        layers=_layers(outer) if part else None,
        dtype=_dtype(content),
        vocabulary=_vocabulary(content, first),
    )


# Models ---------------------------------------------------------------------------------------------------------------


def _parts(content: Mapping[str, Any]) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """The models with where they stand in the file, and the slice that they are in, if they are."""
    models, slices = content.get("models"), content.get("slices")
    if models and slices:
        raise InputError("has both models and slices: give one of them")
    if slices:
        every = list_of("slices", slices)
        if len(every) > 1:
            raise InputError("puts layers of different models together (slices): only whole models are merged here")
        part = checked("slices[0].", every[0], ("sources", "base_model", "parameters"), ("residual_weight",))
        found, where = list_of("slices[0].sources", part.get("sources")), "slices[0].sources"
    elif models:
        found, where, part = list_of("models", models), "models", {}
    else:
        raise InputError("lists no models: give a list with a model in each entry")
    return [(f"{where}[{place}].", each) for place, each in enumerate(found)], part


def _base(content: Mapping[str, Any], part: Mapping[str, Any]) -> str | None:
    given = {"base_model": content.get("base_model"), "slices[0].base_model": part.get("base_model")}
    found = {where: model_of(where, value) for where, value in given.items() if value is not None}
    if len(set(found.values())) > 1:
        raise InputError(f"has two bases, {' and '.join(found.values())}: give one")
    return next(iter(found.values()), None)


def _source(where: str, value: Any, method: str, in_slice: bool) -> Source:
    keys = ("model", "parameters", "layer_range") if in_slice else ("model", "parameters")
    entry = checked(where, value, keys)
    own = _parameters(where, entry.get("parameters"), method)
    for name in own:
        parameter = PARAMETERS[method][name]
        if parameter.option and not parameter.per_model:
            raise InputError(
                f"has {where}parameters.{name}, which counts for all models: move it to the file's parameters"
            )
    return Source(model_of(f"{where}model", entry.get("model")), own)


def _refuse_models(method: str, base: str | None, models: Sequence[str]) -> None:
    if twice := [each for place, each in enumerate(models) if each in models[:place]]:
        raise InputError(f"lists {twice[0]} twice: list every model once")
    if base is None and (METHODS[method].needs_base or method == "slerp"):
        raise InputError(f"names no base_model, which {method} needs: add it")
    if base is not None and base not in models:
        raise InputError(f"does not list its base_model {base} among the sources of the slice: add it there")
    wanted = METHODS[method].models
    if wanted and len(models) != wanted:
        raise InputError(f"gives {len(models)} models with the base, {method} merges exactly {wanted}: give that many")
    if METHODS[method].needs_base and len(models) == 1:
        raise InputError(f"lists no models besides its base: {method} merges at least one")


def _layers(outer: Sequence[tuple[str, Any]]) -> int:
    """How many layers every source takes, from the first on."""
    ranges = [(where, _range(f"{where}layer_range", entry.get("layer_range"))) for where, entry in outer]
    for where, (first, last) in ranges:
        if first != 0 or last != ranges[0][1][1]:
            raise InputError(
                f"has {where}layer_range [{first}, {last}]: only whole models, [0, layers], are merged here"
            )
    return ranges[0][1][1]


def _range(where: str, value: Any) -> tuple[int, int]:
    whole = isinstance(value, list) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    if not whole or len(value) != 2 or not 0 <= value[0] < value[1]:
        raise InputError(f"has {where} {short(value)}, which is not a range of layers: give [0, layers]")
    return value[0], value[1]


# Values ---------------------------------------------------------------------------------------------------------------


def _parameters(where: str, value: Any, method: str) -> Parameters:
    if value is None:
        return {}
    known, found = PARAMETERS[method], {}
    if not isinstance(value, dict):
        raise InputError(f"has {where}parameters {short(value)}, a mapping was expected")
    for name, each in value.items():
        if name not in known:
            raise InputError(
                f"has {where}parameters.{short(name)}, which is none of {method}: it takes {', '.join(known)}"
            )
        try:
            found[name] = alternatives(each, known[name].is_switch)
        except ValueError as error:
            raise InputError(f"has {where}parameters.{name} {short(each)}: {error}") from None
        if any(not part for part, _ in found[name][:-1]):
            logger.warning(
                f"of {where}parameters.{name} what stands behind the condition without filter changes nothing"
            )
        only = known[name].only
        if only is not None and any(number != only for _, row in found[name] for number in row):
            raise InputError(
                f"has {where}parameters.{name} {short(each)}, {method} knows only {str(only).lower()} here"
            )
    return found


def _warn_of_unused(method: str, base: str | None, sources: Sequence[Source], common: Sequence[Parameters]) -> None:
    """Warn of parameters that change nothing, here as in mergekit."""
    of_base = [name for each in sources if each.model == base for name in each.parameters]
    if of_base and METHODS[method].needs_base:
        logger.warning(f"{of_base[0]} of {base} changes nothing: it is the base")
    given = {name for each in (*(source.parameters for source in sources), *common) for name in each}
    for name in sorted(given - {"int8_mask"}):
        if not PARAMETERS[method][name].option and PARAMETERS[method][name].only is None:
            logger.warning(f"{name} changes nothing: {method} does without it")


def _dtype(content: Mapping[str, Any]) -> str:
    names = []
    for key in ("out_dtype", "dtype"):
        if (value := content.get(key)) is not None:
            name = value.removeprefix("torch.") if isinstance(value, str) else value
            if name not in DTYPES:
                raise InputError(f"has {key} {short(value)}, which is not known here: choose {', '.join(DTYPES)}")
            names.append(name)
    return names[0] if names else "auto"


def _vocabulary(content: Mapping[str, Any], first: str) -> Vocabulary | None:
    source, given = content.get("tokenizer_source"), content.get("tokenizer")
    if source is not None and given is not None:
        raise InputError("has both tokenizer and tokenizer_source: give one of them")
    if given is None:
        return None if source is None else Vocabulary(_tokens_of("tokenizer_source", source, first))
    entry = checked("tokenizer.", given, ("source", "tokens", "pad_to_multiple_of"))
    multiple = entry.get("pad_to_multiple_of")
    if multiple is not None and (not isinstance(multiple, int) or isinstance(multiple, bool) or multiple < 1):
        raise InputError(f"has tokenizer.pad_to_multiple_of {short(multiple)}, a number from 1 on was expected")
    rows = read_token_rows("tokenizer.tokens", entry.get("tokens"))
    return Vocabulary(_tokens_of("tokenizer.source", entry.get("source", "union"), first), rows, multiple or 1)


def _tokens_of(where: str, value: Any, first: str) -> str:
    if value == "base" or value == "union":
        return str(value)
    name = model_of(where, value)
    if name != first:
        raise InputError(f"takes the tokenizer of {name} ({where}): only base, union and {first}'s own are known here")
    return "base"
