"""Plan of a training run: the windows and the learning rate of each step, as functions of the seed.

Posts are shuffled, sorted by length within pools of many batches, split into batches of limited posts and tokens, and
the batches shuffled: little padding, and no order that repeats. Since batches depend on lengths, an epoch's are not the
windows ``step * batch ...`` that the other verbs train on; the schedule of the learning rate is theirs.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch

from remodeler.auditing.tagger.config import TrainingConfig
from remodeler.auditing.tagger.labels import Window, batches
from remodeler.training.plan import Training, mix_seed, order, rate

POOL = 32
"""Batches that are sorted by length together."""

Steps = tuple[tuple[int, ...], ...]
"""Windows of each step."""


class Plan:
    """Steps of a training run over some windows, epoch by epoch."""

    def __init__(self, training: TrainingConfig, windows: Sequence[Window]) -> None:
        self.training, self.windows = training, windows
        self.epoch = lru_cache(maxsize=2)(self._epoch)
        self.ends = [0]
        """Steps done at the end of each epoch, after a first entry of 0."""
        for number in range(training.epochs):
            self.ends.append(self.ends[-1] + len(self._epoch(number)))
        warmup = int(training.warmup * self.steps)
        self.schedule = Training(self.steps, learning_rate=1.0, schedule="linear", warmup=warmup)

    @property
    def steps(self) -> int:
        """Number of steps of all epochs."""
        return self.ends[-1]

    def step(self, number: int) -> tuple[int, ...]:
        """Windows of a step, counted from 0."""
        epoch = next(each for each, end in enumerate(self.ends[1:]) if number < end)
        return self.epoch(epoch)[number - self.ends[epoch]]

    def rate(self, number: int) -> float:
        """Learning rate of a step as a share of the peak."""
        return rate(self.schedule, number)

    def _epoch(self, number: int) -> Steps:
        training = self.training
        shuffled = order(len(self.windows), training.seed, number)
        size, found = POOL * training.train_batch_size, []
        for start in range(0, len(shuffled), size):
            pool = shuffled[start : start + size]
            windows = [self.windows[each] for each in pool]
            parts = batches(windows, training.train_batch_size, training.tokens_per_step)
            found += [tuple(pool[each] for each in part) for part in parts]
        generator = torch.Generator().manual_seed(mix_seed(training.seed, number, 1))
        return tuple(found[each] for each in torch.randperm(len(found), generator=generator).tolist())
