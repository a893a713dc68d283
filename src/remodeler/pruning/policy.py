"""Keep-probabilities learned from forward passes only: pruning as policy-gradient optimisation.

"Optimization-based Structural Pruning for Large Language Models without Back-Propagation" (arXiv 2406.10576; ACL 2025),
section 3. Unit i is kept with probability s_i; masks are independent Bernoulli draws; the expected loss of the masked
model is minimised over {0 <= s <= 1, sum of s <= r N}, r the share that is kept, by projected gradient steps on the
score-function estimate

    g = sum_k (L_k - baseline) (m_k - s) / (s (1 - s)) / (K - 1),    K masks on the same batch.

Where we deviate:

- The released code divides by the square root of s (1 - s), which makes another, preconditioned, direction of it
  (``score="root"``). The exact score function is the default. Its variance grows without bound where s comes near 0 or
  1, so masks are drawn with s clamped to [margin, 1 - margin], and the score is that of the clamped s: unbiased there.
- Its baseline is a moving average over batches, d <- (1 - 1/T) d + (1/T) mean of L, with T = 5 (``memory=5``). It
  contains the losses it is taken from, so the estimate of the released code is (K - 1/T) / (K - 1) times the gradient.
  ``memory=1``, the default, is the mean of the masks of one batch alone: with the division by K - 1 that is leave-one-
  out, exactly unbiased, and does not see how hard a batch is.
- Heads are few and weigh much: what the loss changes by with them drowns what it changes by with a channel. So masks of
  one step differ in one kind only, and the kinds take turns (``turns``); what all masks share has no gradient then. The
  estimate stays unbiased.
- Where units differ in size (blocks, layers) the budget counts parameters: sum of c s <= B.
- The bisection of the projection runs a fixed number of steps, so that a device need not wait for it.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.pruning.initial import Start
from remodeler.pruning.store import Line, Store

Trial = Callable[[int, Tensor], Tensor]
"""Given the number of the step and masks [K, units], the losses of the masked models: [K] float64."""
Listener = Callable[[float, str], None]
"""Told the share that is done, and where it stands in words."""
Score = Literal["exact", "root"]
BISECTIONS = 45
FLUSH = 10
"""Steps between two looks at the losses: each makes a device wait."""


@dataclass(frozen=True)
class Policy:
    """How the probabilities are learned."""

    steps: int = 1000
    lr: float | None = None
    """At first; it falls to 0 along a cosine. By default the paper's, for so many steps (:meth:`rate`)."""
    masks: int = 2
    """K, drawn a step, all on the same batch."""
    memory: int = 1
    """T, batches that the baseline remembers."""
    turns: bool = True
    """In a step, masks differ in the units of one pool only; pools take turns."""
    score: Score = "exact"
    margin: float = 0.05
    """Probabilities are drawn from no nearer to 0 and 1 than this; only with the exact score."""
    initial: Start = "sigmap"
    """How scores become first probabilities."""
    bunch: int | None = None
    """Channels that share a probability (:mod:`remodeler.pruning.bunches`); by default as many as it takes to have no
    more bunches than steps. 1 is the paper's."""
    batch: int = 4
    """Windows a step."""
    save_every: float = 60.0
    """Seconds between two states on the disk."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "masks": 2, "memory": 1, "bunch": 1, "batch": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise InputError(f"{value} {name} of policy-gradient is too few: give {bound} or more")
        if not 0 < self.margin < 0.5 or (self.lr is not None and self.lr <= 0):
            raise InputError(
                f"a learning rate of {self.lr} with a margin of {self.margin:g} was asked for: "
                "give a rate above 0 and a margin between 0 and 0.5"
            )
        if self.score not in get_args(Score) or self.initial not in get_args(Start):
            raise InputError(
                f"score {self.score!r} with initial {self.initial!r} was asked for: choose one of {get_args(Score)}, "
                f"and one of {get_args(Start)}"
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step.

        The paper's 2e-3 for 15,000 steps of the root score; the exact one is about 1 / sqrt(s (1 - s)) = 2.3 times as
        long at s = 0.75. For other numbers of steps, what noise moves a probability by, rate * sqrt(steps), stays.
        """
        first = self.lr or {"root": 0.25, "exact": 0.11}[self.score] / math.sqrt(self.steps)
        return first * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Pool:
    """Units that share a budget."""

    part: slice
    budget: float
    """Largest sum of their probabilities, each times its cost."""
    costs: Tensor
    """[units]"""

    def project(self, values: Tensor) -> Tensor:
        """The nearest probabilities that keep the budget: values of all pools [n] to those of this one."""
        return projected(values[self.part], self.costs, self.budget)


@dataclass(frozen=True)
class State:
    """Where the learning stands."""

    probabilities: Tensor
    """[n] float64"""
    baseline: Tensor
    """A scalar; NaN before the first loss."""
    step: int = 0
    """Steps done."""
    rows: tuple[Tensor, ...] = field(default=(), repr=False)
    """Mean loss and mean probability of the steps that are not yet in the history."""

    def tensors(self) -> dict[str, Tensor]:
        """What goes on after a kill."""
        return {
            "probabilities": self.probabilities,
            "baseline": self.baseline,
            "step": torch.tensor(self.step),
        }


def learn(
    start: Tensor,
    pools: Sequence[Pool],
    trial: Trial,
    policy: Policy,
    seed: int,
    store: Store,
    listen: Listener | None = None,
) -> tuple[Tensor, list[Line]]:
    """Learn keep-probabilities, from where a state left off if there is one.

    Args:
        start: [n] first probabilities, on the device where masks are wanted.
        pools: the budgets; together their parts are all n units.
        trial: the losses of masks.
        policy: how to learn.
        seed: of the masks.
        store: where the state is kept.
        listen: told the progress.

    Returns:
        The probabilities [n], and a line of history a step.
    """
    state, history = _taken_up(start, pools, store)
    saved = time.monotonic()
    while state.step < policy.steps:
        state = _stepped(state, pools, trial, policy, seed)
        last = state.step == policy.steps
        if last or state.step % FLUSH == 0:
            state, lines = _flushed(state)
            history += lines
            store.log(lines)
            if listen:
                listen(state.step / policy.steps, f"step {state.step} of {policy.steps}, loss {lines[-1]['loss']}")
            if last or time.monotonic() - saved > policy.save_every:
                store.save(state.tensors())
                saved = time.monotonic()
    return state.probabilities, history


def _taken_up(start: Tensor, pools: Sequence[Pool], store: Store) -> tuple[State, list[Line]]:
    found = store.load()
    if found is None:
        store.history(0)
        first = torch.cat([pool.project(start) for pool in pools])
        return State(first, torch.full_like(first[0], math.nan)), []
    step = int(found["step"])
    state = State(found["probabilities"].to(start.device), found["baseline"].to(start.device), step)
    return state, store.history(step)


def _stepped(state: State, pools: Sequence[Pool], trial: Trial, policy: Policy, seed: int) -> State:
    """One step: draw masks, ask for their losses, move and project."""
    margin = policy.margin if policy.score == "exact" else 0.0
    odds = state.probabilities.clamp(margin, 1 - margin)
    draws = _draws(policy.masks, len(odds), seed, state.step)
    if policy.turns:
        for number, pool in enumerate(pools):
            if number != state.step % len(pools):
                draws[:, pool.part] = draws[:1, pool.part]
    masks = draws.to(odds.device, non_blocking=True) < odds
    losses = trial(state.step, masks)
    mean, baseline = remembered(losses, state.baseline, policy.memory)
    slope = gradient(losses, masks, odds, baseline, policy.score)
    moved = state.probabilities - policy.rate(state.step) * slope
    probabilities = torch.cat([pool.project(moved) for pool in pools])
    rows = (*state.rows, torch.stack([mean, probabilities.mean(), (probabilities * (1 - probabilities)).mean()]))
    return State(probabilities, baseline, state.step + 1, rows)


def _draws(masks: int, units: int, seed: int, step: int) -> Tensor:
    """Uniform numbers of the seed and the step alone, so that a killed run goes on alike, in every process."""
    return torch.rand(masks, units, generator=torch.Generator().manual_seed(seed * 1_000_003 + step))


def remembered(losses: Tensor, baseline: Tensor, memory: int) -> tuple[Tensor, Tensor]:
    """Mean of the finite losses, and the moving average with it; NaN and infinite losses are skipped."""
    mean = torch.where(losses.isfinite(), losses, math.nan).nanmean()
    known = torch.where(baseline.isnan(), mean, baseline)
    return mean, torch.where(mean.isnan(), baseline, (1 - 1 / memory) * known + mean / memory)


def gradient(losses: Tensor, masks: Tensor, probabilities: Tensor, baseline: Tensor, score: Score = "exact") -> Tensor:
    """The score-function estimate of the gradient of the expected loss: [n].

    Args:
        losses: [K]; those that are not finite are skipped.
        masks: [K, n] bool, drawn from ``probabilities``.
        probabilities: [n], strictly between 0 and 1 for the exact score.
        baseline: a scalar.
        score: ``exact``, or ``root`` as the released code has it.
    """
    spread = probabilities * (1 - probabilities)
    over = spread if score == "exact" else (spread + 1e-7).sqrt()
    above = torch.where(losses.isfinite(), losses - baseline, 0.0)
    return (above[:, None] * (masks.to(spread.dtype) - probabilities) / over).sum(0) / (len(losses) - 1)


def projected(values: Tensor, costs: Tensor, budget: float) -> Tensor:
    """The nearest point of {0 <= s <= 1, sum of costs s <= budget}: s = clamp(values - v costs, 0, 1), v by bisection.

    Args:
        values: [n].
        costs: [n], above 0.
        budget: not below 0.
    """
    low, high = torch.zeros_like(values[0]), (values / costs).amax().clamp(min=0)
    inside = (costs * values.clamp(0, 1)).sum() <= budget
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        over = (costs * (values - middle * costs).clamp(0, 1)).sum() > budget
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return (values - torch.where(inside, 0.0, high) * costs).clamp(0, 1)


def _flushed(state: State) -> tuple[State, list[Line]]:
    """The state without its rows, and these as lines of the history."""
    first = state.step - len(state.rows) + 1
    names = ("loss", "mean", "spread")
    values = torch.stack(state.rows).tolist()
    lines = [
        {"step": first + index} | {name: _number(value) for name, value in zip(names, row, strict=True)}
        for index, row in enumerate(values)
    ]
    return replace(state, rows=()), lines


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
