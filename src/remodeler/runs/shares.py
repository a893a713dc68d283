"""Shares as people write them: 0.25 or 25%."""

import math


def share(text: str, most: float = 1.0) -> float:
    """``25%`` and ``0.25`` alike; above ``most`` only with the sign, since 25 alone is seldom 2500 percent."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError("give a share as 0.25 or 25%") from None
    if value > most and not text.endswith("%") and math.isfinite(value):
        raise ValueError(f"a share above {most:g} needs a percent sign: did you mean {text}%?")
    return value
