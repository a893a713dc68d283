"""What the tensors of a checkpoint's files become in its model, by transformers' own renaming and fusing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


@dataclass(frozen=True)
class Made:
    """What a tensor of a file becomes."""

    names: frozenset[str]
    """In the model, of which it becomes one or a part; also such as don't exist."""
    converted: bool
    """It is joined, cut or turned, and not only renamed."""

    @property
    def name(self) -> str:
        """Of one that is only renamed."""
        return "" if self.converted else next(iter(self.names))


def made_of(model: Any, keys: Iterable[str]) -> dict[str, Made]:
    """What each tensor becomes, by its name in the files; the model may be without numbers."""
    rules: list[Any] = get_model_conversion_mapping(model)
    known = model.state_dict()
    return {key: _targets(key, known, model.base_model_prefix, rules) for key in keys}


def _targets(key: str, known: dict[str, Tensor], prefix: str, rules: list[Any]) -> Made:
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    name, pattern = rename_source_key(key, renamings, converters, prefix, known)
    if name not in known and key in known:
        name, pattern = rename_source_key(key, [], [], prefix, known)
    if pattern is None:
        return Made(frozenset([name]), False)
    made = next(rule.target_patterns for rule in converters if pattern in rule.source_patterns)
    return Made(frozenset(name.replace(made[0], other) for other in made), True)
