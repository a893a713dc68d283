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
- A learning rate has a scale, that of the losses; so by default it is found: the one by which noise alone would move a
  probability by ``reach`` over the whole run, from what pairs of masks differ by before the first step. Each kind has
  its own. ``lr=2e-3`` with ``score="root"`` and 15,000 steps is the released code's; with fewer steps it moves nothing.
- The projection is that of :mod:`remodeler.pruning.width.projection`.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.pruning.width.initial import Start
from remodeler.pruning.width.projection import Pool
from remodeler.pruning.width.store import Line, Store
from remodeler.runs.progress import Progress, silent

Trial = Callable[[int, Tensor], Tensor]
"""Given the number of the step and masks [K, units], the losses of the masked models: [K] float64."""
Score = Literal["exact", "root"]
FLUSH = 10
"""Steps between two looks at the losses: each makes a device wait."""
PROBES = 8
"""Pairs of masks that are drawn of every pool before the first step, to see how much the losses differ."""


@dataclass(frozen=True)
class Policy:
    """How the probabilities are learned."""

    steps: int = 1000
    lr: float | None = None
    """At first; it falls to 0 along a cosine. By default it is found (:func:`first_rates`)."""
    reach: float = 0.1
    """Without ``lr``: how far noise alone would move a probability, one standard deviation over the whole run."""
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
    """Channels that share a probability (`pruning.width.channel_groups`); by default as many as it takes to have no
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
        if not 0 < self.margin < 0.5 or min(self.reach, 1.0 if self.lr is None else self.lr) <= 0:
            raise InputError(
                f"a learning rate of {self.lr}, a reach of {self.reach:g} and a margin of {self.margin:g} were asked "
                "for: give a rate and a reach above 0 and a margin between 0 and 0.5"
            )
        if self.score not in get_args(Score) or self.initial not in get_args(Start):
            raise InputError(
                f"score {self.score!r} with initial {self.initial!r} was asked for: choose one of {get_args(Score)}, "
                f"and one of {get_args(Start)}"
            )

    def cooled(self, step: int) -> float:
        """The share of its first learning rate that a step has."""
        return 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class State:
    """Where the learning stands."""

    probabilities: Tensor
    """[n] float64"""
    baseline: Tensor
    """A scalar; NaN before the first loss."""
    rates: Tensor
    """[n] first learning rates."""
    step: int = 0
    """Steps done."""
    rows: tuple[Tensor, ...] = field(default=(), repr=False)
    """Mean loss and mean probability of the steps that are not yet in the history."""

    def tensors(self) -> dict[str, Tensor]:
        """The state from which a killed run resumes."""
        return {
            "probabilities": self.probabilities,
            "baseline": self.baseline,
            "rates": self.rates,
            "step": torch.tensor(self.step),
        }


def learn(
    start: Tensor,
    pools: Sequence[Pool],
    trial: Trial,
    policy: Policy,
    seed: int,
    store: Store,
    progress: Progress = silent,
) -> tuple[Tensor, list[Line]]:
    """Learn keep-probabilities, from where a state left off if there is one.

    Args:
        start: [n] first probabilities, on the device where masks are wanted.
        pools: the budgets; together their parts are all n units.
        trial: the losses of masks.
        policy: how to learn.
        seed: of the masks.
        store: where the state is kept.
        progress: told the share done, and a few words.

    Returns:
        The probabilities [n], and a line of history a step.
    """
    state, history = _resume(start, pools, trial, policy, seed, store)
    saved = time.monotonic()
    while state.step < policy.steps:
        state = _advance(state, pools, trial, policy, seed)
        last = state.step == policy.steps
        if last or state.step % FLUSH == 0:
            state, lines = _flush(state)
            history += lines
            store.log(lines)
            progress(state.step / policy.steps, f"step {state.step} of {policy.steps}, loss {lines[-1]['loss']}")
            if last or time.monotonic() - saved > policy.save_every:
                store.save(state.tensors())
                saved = time.monotonic()
    return state.probabilities, history


def _resume(
    start: Tensor, pools: Sequence[Pool], trial: Trial, policy: Policy, seed: int, store: Store
) -> tuple[State, list[Line]]:
    found = store.load()
    if found is None:
        store.history(0)
        first = torch.cat([pool.project(start) for pool in pools])
        return State(first, torch.full_like(first[0], math.nan), first_rates(first, pools, trial, policy, seed)), []
    step = int(found["step"])
    probabilities, baseline, rates = (found[name].to(start.device) for name in ("probabilities", "baseline", "rates"))
    return State(probabilities, baseline, rates, step), store.history(step)


def first_rates(probabilities: Tensor, pools: Sequence[Pool], trial: Trial, policy: Policy, seed: int) -> Tensor:
    """The learning rates that a run begins with: [n], one for each pool.

    The estimate of the gradient has the variance v / (s (1 - s)) / (K - 1), v that of the losses (with the root score
    v / (K - 1)). Over a run whose squared cosine has the mean 3/8 and in which a pool has its turn every so many steps,
    the rate makes of it a standard deviation of ``reach``. A pool whose pairs all lose the same, or nothing finite, has
    the rate 0: it keeps its first probabilities.
    """
    if policy.lr is not None:
        return torch.full_like(probabilities, policy.lr)
    odds = _odds(probabilities, policy)
    turns = len(pools) if policy.turns else 1
    run = math.sqrt(3 / 8 * policy.steps / turns / (policy.masks - 1))
    rates = []
    for number, pool in enumerate(pools):
        noise = _spread(odds, pools, trial, number if policy.turns else None, seed)
        spread = (odds * (1 - odds))[pool.part].mean().sqrt() if policy.score == "exact" else 1.0
        rate = torch.where(noise > 0, policy.reach / run * spread / noise, 0.0)
        rates.append(rate.expand_as(odds[pool.part]))
    return torch.cat(rates)


def _spread(odds: Tensor, pools: Sequence[Pool], trial: Trial, turn: int | None, seed: int) -> Tensor:
    """Standard deviation of the losses of masks that differ in one pool only, or in all: a scalar, NaN without any."""
    pairs = torch.stack([trial(k, _masks(odds, pools, 2, seed, -1 - k, turn)) for k in range(PROBES)])
    halves = pairs.diff(dim=1).square() / 2
    return torch.where(halves.isfinite(), halves, math.nan).nanmean().sqrt()


def _odds(probabilities: Tensor, policy: Policy) -> Tensor:
    """What masks are drawn with."""
    margin = policy.margin if policy.score == "exact" else 0.0
    return probabilities.clamp(margin, 1 - margin)


def _advance(state: State, pools: Sequence[Pool], trial: Trial, policy: Policy, seed: int) -> State:
    """One step: draw masks, ask for their losses, move and project."""
    odds = _odds(state.probabilities, policy)
    masks = _masks(odds, pools, policy.masks, seed, state.step, state.step % len(pools) if policy.turns else None)
    losses = trial(state.step, masks)
    mean, baseline = update_baseline(losses, state.baseline, policy.memory)
    slope = gradient(losses, masks, odds, baseline, policy.score)
    moved = state.probabilities - policy.cooled(state.step) * state.rates * slope
    probabilities = torch.cat([pool.project(moved) for pool in pools])
    row = torch.stack([mean, probabilities.mean(), (probabilities * (1 - probabilities)).mean()])
    return State(probabilities, baseline, state.rates, state.step + 1, (*state.rows, row))


def _masks(odds: Tensor, pools: Sequence[Pool], count: int, seed: int, step: int, turn: int | None) -> Tensor:
    """Masks [count, n] of a step; where it is one pool's turn, they are alike in all others."""
    draws = _draws(count, len(odds), seed, step)
    for number, pool in enumerate(pools):
        if turn not in (None, number):
            draws[:, pool.part] = draws[:1, pool.part]
    return draws.to(odds.device, non_blocking=True) < odds


def _draws(masks: int, units: int, seed: int, step: int) -> Tensor:
    """Uniform numbers of the seed and the step alone, so that a killed run goes on alike, in every process."""
    return torch.rand(masks, units, generator=torch.Generator().manual_seed(seed * 1_000_003 + step))


def update_baseline(losses: Tensor, baseline: Tensor, memory: int) -> tuple[Tensor, Tensor]:
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


def _flush(state: State) -> tuple[State, list[Line]]:
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
