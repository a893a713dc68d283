"""Course: how a tagger is trained; and what each step reads, as a function of the seed alone.

Posts are shuffled, sorted by length within pools of many batches, cut into batches of a number of posts and of tokens,
and the batches shuffled: little padding, and no order that repeats. Since batches depend on lengths, an epoch's are not
the windows ``step * batch ...`` that the other verbs train on; the schedule of the learning rate is theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from remodeler.auditing.tagger.labels import Window, batches
from remodeler.auditing.tagger.losses import TAG_LOSSES
from remodeler.errors import InputError
from remodeler.training.plan import Training, mixed, order, rate

POOL = 32
"""Batches that are sorted by length together."""


@dataclass(frozen=True)
class Course:
    """How to train a tagger."""

    epochs: int = 3
    batch: int = 16
    """Windows of a step at most; a post is one window, unless it is long."""
    tokens: int = 2048
    """Tokens of a step at most, padding included."""
    learning_rate: float = 1e-4
    """Of the encoder."""
    head_rate: float = 1e-3
    """Of what stands on it."""
    warmup: float = 0.1
    """Share of the steps in which the rates grow."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of a step's gradient."""
    loss: str = "cross-entropy"
    teacher_share: float = 0.5
    """How much a teacher's likelihoods count, where there is one; the gold tags count the rest."""
    seed: int = 42
    save_minutes: float = 10.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "tokens", "learning_rate", "head_rate", "clip"):
            if not getattr(self, name) > 0:
                shown = name.replace("_", "-")
                raise InputError(f"--{shown} {getattr(self, name)} was given, a number above 0 was expected: raise it")
        for name in ("warmup", "teacher_share"):
            if not 0 <= getattr(self, name) <= 1:
                shown = name.replace("_", "-")
                raise InputError(f"--{shown} {getattr(self, name)} was given, 0 to 1 was expected: choose such a share")
        if not self.weight_decay >= 0:
            raise InputError(f"--weight-decay {self.weight_decay} was given, at least 0 was expected: raise it")
        if self.loss not in TAG_LOSSES:
            raise InputError(f"--loss {self.loss!r} is not known: choose {', '.join(TAG_LOSSES)}")


Steps = tuple[tuple[int, ...], ...]
"""The windows of each step."""


class Plan:
    """The steps of a course over some windows, epoch by epoch."""

    def __init__(self, course: Course, windows: Sequence[Window]) -> None:
        self.course, self.windows = course, windows
        self.epoch = lru_cache(maxsize=2)(self._epoch)
        self.ends = [0]
        """Steps that are done when each epoch ends, the first entry before any."""
        for number in range(course.epochs):
            self.ends.append(self.ends[-1] + len(self._epoch(number)))
        warmup = int(course.warmup * self.steps)
        self.schedule = Training(self.steps, learning_rate=1.0, schedule="linear", warmup=warmup)

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.ends[-1]

    def step(self, number: int) -> tuple[int, ...]:
        """The windows of a step, counted from 0."""
        epoch = next(each for each, end in enumerate(self.ends[1:]) if number < end)
        return self.epoch(epoch)[number - self.ends[epoch]]

    def rate(self, number: int) -> float:
        """The share of the full learning rates that a step has."""
        return rate(self.schedule, number)

    def _epoch(self, number: int) -> Steps:
        course = self.course
        shuffled = order(len(self.windows), course.seed, number)
        size, found = POOL * course.batch, []
        for start in range(0, len(shuffled), size):
            pool = shuffled[start : start + size]
            parts = batches([self.windows[each] for each in pool], course.batch, course.tokens)
            found += [tuple(pool[each] for each in part) for part in parts]
        generator = torch.Generator().manual_seed(mixed(course.seed, number, 1))
        return tuple(found[each] for each in torch.randperm(len(found), generator=generator).tolist())
