"""Differences between the configs of models that are merged, where they change what weights mean.

Equal names and shapes are not enough: rotary positions, norms and heads are set by the config, and the result has one
config only, that of the base or of the first model.
"""

import logging
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from remodeler.errors import InputError
from remodeler.merging.inputs import Model, Outline
from remodeler.model.families import config_names

logger = logging.getLogger(__name__)


WITHOUT_MEANING = frozenset(
    [
        *("architectures", "dtype", "transformers_version", "id2label", "label2id", "problem_type", "return_dict"),
        *("output_hidden_states", "chunk_size_feed_forward", "initializer_range", "use_cache", "bos_token_id"),
        *("pad_token_id", "pretraining_tp", "vocab_size", "tie_word_embeddings"),
    ]
)
"""Fields that change nothing in what weights compute, or that are checked elsewhere."""
SHOWN = 4
"""Fields that a message names."""


def report_differences(every: Sequence[tuple[Model, Outline]]) -> None:
    """Refuse models whose rows are split into heads differently, and report what else differs from the first one.

    Args:
        every: the base, if there is one, and the models.

    Raises:
        InputError: for other heads.
    """
    first = every[0][0]
    heads = config_names(first.settings.get("model_type")).heads
    for model, outline in every[1:]:
        found = dict(differences(_config(*every[0]), _config(model, outline)))
        for field, (one, other) in found.items():
            if field.rpartition(".")[2] in heads and None not in (one, other):
                raise InputError(
                    f"{field} is {one} in {first.name} and {other} in {model.name}: their rows are split into "
                    "different heads, so they can't be merged"
                )
        if found:
            logger.warning(
                f"the configs of {first.name} and {model.name} differ, the result has the values of {first.name}: "
                + _list_fields(found)
            )


def _config(model: Model, outline: Outline) -> Mapping[str, Any]:
    """The fields of a config that matter: for a known class its own fields, by their current names."""
    if outline.built is None:
        return {key: value for key, value in model.settings.items() if not key.startswith(("_", "torch_"))}
    config = outline.built.config
    known = {each.name for each in fields(config)} if is_dataclass(config) else set(config.to_dict())
    return {key: value for key, value in config.to_dict().items() if key in known | {"model_type", "packing"}}


def differences(one: Mapping[str, Any], other: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Fields that both have, with other values; those of nested configs with the config's name before them."""
    for key in sorted(one.keys() & other.keys()):
        first, second = one[key], other[key]
        if key in WITHOUT_MEANING or key.endswith(("dropout", "_pdrop")) or first == second:
            continue
        if key.endswith("_config") and isinstance(first, dict) and isinstance(second, dict):
            yield from differences(first, second, f"{before}{key}.")
        else:
            yield before + key, (first, second)


def _list_fields(found: Mapping[str, tuple[Any, Any]]) -> str:
    parts = [f"{field} ({reprlib.repr(one)} and {reprlib.repr(other)})" for field, (one, other) in found.items()]
    rest = [f"and {len(parts) - SHOWN} more"] if len(parts) > SHOWN else []
    return ", ".join([*parts[:SHOWN], *rest])
