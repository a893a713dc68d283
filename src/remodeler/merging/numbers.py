"""Numbers that may differ by depth and by tensor: how they are written, and what they are for one tensor.

A setting is a list of alternatives; the first whose filter is in a tensor's name counts. A value is one number, or
several that are spread over the depth of the model and interpolated (mergekit's gradients). On the command line:
``0.3``, ``0:0.5:1``, ``self_attn=0:1,mlp=0.5,0.2``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Alternatives = tuple[tuple[str, tuple[float, ...]], ...]
"""Filters (an empty one lets every name through) and values along the depth."""


@dataclass(frozen=True)
class Setting:
    """A number that may depend on a tensor's name and depth; 1 and 0 stand for true and false."""

    alternatives: Alternatives
    required: bool = False
    """Whether a tensor that no filter lets through is an error; else it has the method's default."""

    def __str__(self) -> str:
        parts = [
            (f"{name}=" if name else "") + ":".join(f"{each:g}" for each in row) for name, row in self.alternatives
        ]
        return ",".join(parts)

    def row(self, name: str) -> tuple[float, ...] | None:
        """The values along the depth for a tensor; None where no filter lets it through."""
        return next((values for part, values in self.alternatives if part in name), None)

    def at(self, name: str, depth: float) -> float | None:
        """The number for a tensor, at a depth from 0 to 1; None where no filter lets it through."""
        values = self.row(name)
        return None if values is None else interpolate(values, depth)

    def is_on(self, name: str, depth: float) -> bool:
        """Whether it is true for a tensor: of several values along the depth, the last that is reached."""
        values = self.row(name)
        return values is not None and bool(values[int(depth * (len(values) - 1))])


def interpolate(values: Sequence[float], depth: float) -> float:
    """Linear interpolation of values that are spread evenly over the depth."""
    place = depth * (len(values) - 1)
    low = min(int(place), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    share = place - low
    return values[low] * (1 - share) + values[high] * share if share else values[low]


def parse_setting(text: str) -> Setting:
    """A setting as it is written on the command line.

    Raises:
        ValueError: with the forms that are allowed.
    """
    alternatives = []
    for part in text.split(","):
        name, _, values = part.rpartition("=")
        try:
            alternatives.append((name.strip(), _parse_row(values.split(":"))))
        except ValueError:
            raise ValueError("give a number, a gradient as 0:0.5:1, or FILTER=NUMBER,...") from None
    return Setting(tuple(alternatives))


def _parse_row(texts: Sequence[str]) -> tuple[float, ...]:
    numbers = tuple(map(float, texts))
    if not all(map(math.isfinite, numbers)):
        raise ValueError("NaN or infinity")
    return numbers


def as_setting(value: float | str | Setting) -> Setting:
    """A number, the same for all tensors, or what is written of one, as a setting."""
    if isinstance(value, str):
        return parse_setting(value)
    return value if isinstance(value, Setting) else Setting((("", (float(value),)),))
