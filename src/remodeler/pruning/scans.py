"""How the candidates of a step are measured: exactly, in a race, or those that the gradient proposes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from remodeler.pruning.sweep import Unit


@dataclass(frozen=True)
class Scores:
    """What a step knows of its candidates."""

    importance: Mapping[Unit, float]
    """Higher = more important."""
    windows: Mapping[Unit, int] = field(default_factory=dict)
    """After a race: how many windows each one saw."""


SCANS: dict[str, Callable[..., Scores]] = {}
"""Searches beside the exact one, which asks the method's criterion about every candidate."""
