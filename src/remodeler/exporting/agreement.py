"""How far another runtime agrees with torch on what was written: the same for every target that decodes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """What a check found."""

    runtime: str
    difference: float
    """Largest difference of a logit or of a log-probability, as a share of the largest logit."""
    tokens: int
    """That were decoded greedily, by one of the two."""
    same: int
    """How many of them the other chooses too, after the same tokens."""
