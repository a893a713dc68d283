"""How to train: settings, and what a step reads and how fast it goes, as functions of the seed and the step's number.

Nothing here remembers anything, so a run that resumes after a kill, or on more processes, does the same steps.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch

from remodeler.data.windows import Windows
from remodeler.errors import InputError

Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["no", "bf16", "fp16"]

MICRO_TOKENS = 2048
"""Tokens of a mini-batch, when the user does not say."""


@dataclass(frozen=True)
class Training:
    """How to train."""

    steps: int
    batch: int = 4
    """Windows a step, of all mini-batches and processes together."""
    micro: int | None = None
    """Windows per mini-batch; by default ``MICRO_TOKENS``."""
    learning_rate: float = 2e-4
    schedule: Schedule = "linear"
    warmup: int = 0
    """Steps in which the learning rate grows."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    """Largest norm of a step's gradient; 0 for any."""
    precision: Precision = "no"
    """What matrix products are computed in where that is not the weights' own dtype."""
    seed: int = 42
    evaluate_every: int = 0
    """Steps between two looks at the held-out text; 0 for only before and after."""
    save_minutes: float = 10.0
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name.replace('_', ' ')} {value} was given, a number above 0 was expected: raise it")
        for name in ("warmup", "weight_decay", "evaluate_every"):
            if not getattr(self, name) >= 0:
                shown = name.replace("_", " ")
                raise InputError(f"{shown} {getattr(self, name)} was given, at least 0 was expected: raise it")
        for name, allowed in (("schedule", get_args(Schedule)), ("precision", get_args(Precision))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} {getattr(self, name)!r} is not known: choose {', '.join(allowed)}")


def refuse_pace(epochs: float, batch: int, warmup: float) -> None:
    """What the number of steps, and of those in which the rate grows, is made from.

    Raises:
        InputError: for epochs or batches of nothing, and a share of the steps that is none.
    """
    for name, value in (("epochs", epochs), ("batch", batch)):
        if not value > 0:
            raise InputError(f"{name} {value} was given, a number above 0 was expected: raise it")
    if not 0 <= warmup <= 1:
        raise InputError(f"warmup {warmup:g} was given, a share of the steps from 0 to 1 was expected: choose one")


def rate(plan: Training, step: int) -> float:
    """The learning rate of a step, counted from 0: it grows to its full size, then falls; the last is above 0."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / (plan.warmup + 1)
    share = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    factor = {"linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2, "constant": 1.0}[plan.schedule]
    return plan.learning_rate * factor


@lru_cache(maxsize=2)
def order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """All windows once, in the order of an epoch."""
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch))
    return tuple(torch.randperm(count, generator=generator).tolist())


def drawn(count: int, plan: Training, step: int) -> list[int]:
    """The windows of a step: epochs follow each other without a gap, so a step may belong to two."""
    start, stop = step * plan.batch, (step + 1) * plan.batch
    epochs = {epoch: order(count, plan.seed, epoch) for epoch in range(start // count, (stop - 1) // count + 1)}
    return [epochs[place // count][place % count] for place in range(start, stop)]


def mix_seed(*numbers: int) -> int:
    """One seed of several numbers, the same on every machine."""
    value = 0
    for number in numbers:
        value = (value * 1_000_003 + number + 1) % (2**63 - 25)
    return value


def trim(windows: Windows) -> Windows:
    """Padded windows without the columns that are padding in all of them."""
    if windows.attention is None or windows.decoder is not None:
        return windows
    longest = int(windows.attention.sum(1).max())
    ids, targets, attention = (each[:, :longest] for each in (windows.ids, windows.targets, windows.attention))
    return Windows(ids, targets, attention)
