"""Race the candidates of a step: who is clearly worse than the leader leaves before the whole text is read.

A race in the sense of Hoeffding races (Maron and Moore, NIPS 1994), with paired comparisons in place of bounds for
each candidate alone (BRACE, Moore and Lee, ICML 1994). Windows come in a seeded random order, a few more in every
round; after each, candidates leave whose loss is above the leader's by a paired t test. The last one left reads the
rest alone, so that its loss is exact, and a race without a clear winner ends as the exact search does.

Where we deviate from those:

- *Few, long windows.* The test's unit is not the window but a run of ``PIECE`` tokens, taken as independent within its
  window; where the means of windows differ by more than that allows, their spread is used.
- *No more windows than there are*: the standard error has the finite-population correction, 0 at the end of the text.
- *Races before this one are remembered.* What a candidate costs changes little from one step to the next. A difference
  seen on more windows in an earlier model corrects the one seen now: its mean there, plus the change on the windows
  seen now (double sampling, Cochran 1977, section 12.9, over as many races as help: the telescoping sum of multilevel
  Monte Carlo, Giles 2008). It is unbiased whatever the earlier model was, and needs one order of windows for all.
- *The error* is the probability that the best candidate leaves in this step. A candidate leaves when its p-value, times
  the number of rivals left (any of them might lead by chance), is below an allowance: ``error`` times the share of the
  text that was read. Rounds are not paid for one by one, since each has the windows of those before; were all
  candidates equal, the worst case, the best would leave in 0.6 to 0.8 of the allowed cases (a test holds it to that);
  on recorded losses of real models it leaves in far fewer (docs/benchmarks/results.md).

Windows are made into mini-batches by their places in the order, so several processes decide alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import summed_nll
from remodeler.model.minibatches import Batch
from remodeler.pruning.criteria.sweep import Measure, window_scores
from remodeler.runs import processes
from remodeler.runs.progress import Progress, part, silent
from remodeler.runs.units import Block, Unit

PIECE = 64
"""Tokens a piece, about: the unit of the paired test."""
PIECES = 16
"""So many at least are seen before the first test: a t quantile of fewer is too large to be of use."""
GROWTH = 1.25
"""Windows seen at a look, by those seen at the look before."""
Losses = Callable[..., Tensor]
"""The signature of :func:`remodeler.pruning.criteria.sweep.window_scores`."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """Losses that a race has seen."""

    text: tuple[str, int]
    """Fingerprint of the windows and seed of their order."""
    removed: frozenset[Block]
    columns: dict[Unit, int]
    losses: Floats  # [windows in the order of the race, units, pieces]
    seen: list[int]
    """Windows, by column; 0 where a loss is not finite."""

    def difference(self, unit: Unit, other: Unit, count: int) -> Floats:
        """Loss without one unit less that without the other, on the first windows: [count, pieces]."""
        found: Floats = self.losses[:count, self.columns[unit]] - self.losses[:count, self.columns[other]]
        return found

    def both(self, unit: Unit, other: Unit) -> int:
        """How many windows both were seen on."""
        known = unit in self.columns and other in self.columns
        return min(self.seen[self.columns[unit]], self.seen[self.columns[other]]) if known else 0

    def total(self, unit: Unit) -> float:
        """Sum over the windows that a unit was seen on."""
        return float(self.losses[: self.seen[self.columns[unit]], self.columns[unit]].sum())


@dataclass(frozen=True)
class Gap:
    """How far a candidate is behind another, a piece, estimated for the whole text."""

    mean: float
    variance: float
    freedom: int
    """Degrees of freedom of the variance."""

    @property
    def p(self) -> float:
        """Probability of so large a gap, were there none; 1 where there is none to be seen."""
        if self.mean <= 0:
            return 1.0
        return tail(self.mean / math.sqrt(self.variance), self.freedom) if self.variance > 0 else 0.0


@dataclass(frozen=True)
class Raced:
    """What a race found."""

    losses: list[float]
    """Mean negative log-likelihood without each unit: exact for those that saw all windows, the lowest among them."""
    seen: list[int]
    """Windows each unit saw before it left."""


# ---- the race --------------------------------------------------------------------------------------------------------


def race(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    units: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
    error: float = 0.01,
    seed: int = 42,
    past_races: list[Table] | None = None,
    losses: Losses = window_scores,
) -> Raced:
    """The unit whose removal costs least, and about what the others cost.

    Args:
        anatomy: the traced model; it is left as it was.
        windows: the calibration text.
        removed: blocks that are gone already.
        units: the candidates.
        size: windows per mini-batch; by default chosen for the device.
        progress: called with the share done.
        error: probability that the best unit leaves; at 0 nobody does.
        seed: of the order of the windows.
        past_races: tables of earlier races over the same windows; this one's is added.
        losses: measures the candidates.

    Returns:
        Losses in nats a token. That of a unit which left is the winner's plus its mean paired difference.
    """
    past_races = [] if past_races is None else past_races
    mixed, table = _start(windows, removed, units, seed)
    past = [each for each in past_races if each.text == table.text]
    past = sorted(past[::-1], key=lambda each: len(each.removed ^ table.removed))
    left, ends, measure = list(units), looks(len(windows), pieces(windows)), loss_of_pieces(pieces(windows))
    for number, (begin, end) in enumerate(pairwise([0, *ends])):
        end = end if len(left) > 1 else len(windows)
        look = part(progress, number / len(ends), 1 / len(ends))
        _read(table, begin, left, losses(anatomy, mixed[begin:end], removed, left, size, look, *measure))
        left = processes.from_first(_survivors(table, left, past, error * end / len(windows)))
        if end == len(windows) or not left:
            break
    progress(1.0, "")
    past_races.append(table)
    return _result(table, units, left, past, windows.tokens)


def looks(windows: int, pieces: int) -> list[int]:
    """After how many windows the candidates are compared; the last is all of them."""
    ends = [max(2, math.ceil(PIECES / pieces))]
    while ends[-1] < windows:
        ends.append(math.ceil(ends[-1] * GROWTH))
    return [*ends[:-1], windows]


def _start(windows: Windows, removed: Sequence[Block], units: Sequence[Unit], seed: int) -> tuple[Windows, Table]:
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    attention, decoder = (None if each is None else each[order] for each in (windows.attention, windows.decoder))
    mixed = Windows(windows.ids[order], windows.targets[order], attention, decoder)
    losses = np.zeros((len(windows), len(units), pieces(windows)))
    columns = {unit: column for column, unit in enumerate(units)}
    return mixed, Table((windows.fingerprint(), seed), frozenset(removed), columns, losses, [0] * len(units))


def pieces(windows: Windows) -> int:
    """Into how many pieces a race cuts each window."""
    return max(1, round(windows.targets.shape[1] / PIECE))


def loss_of_pieces(count: int) -> tuple[Callable[[Anatomy, Batch], Measure], tuple[int]]:
    """What to ask of every candidate, and its shape: the loss of every piece of a window, of ``count``."""

    def measure(anatomy: Anatomy, batch: Batch) -> Tensor:
        length = batch.inputs.get("decoder_input_ids", batch.inputs["input_ids"]).shape[1]
        cells = batch.rows * count + batch.places % length * count // length
        return summed_nll(anatomy, batch, cells, len(batch) * count).reshape(len(batch), count)

    return lambda _, __: measure, (count,)


def _read(table: Table, begin: int, left: Sequence[Unit], found: Tensor) -> None:
    columns = [table.columns[unit] for unit in left]
    end = begin + len(found)
    table.losses[begin:end, columns] = found.double().cpu().numpy()
    for column in columns:
        table.seen[column] = end if np.isfinite(table.losses[begin:end, column]).all() else 0


# ---- who leaves ------------------------------------------------------------------------------------------------------


def _survivors(table: Table, left: Sequence[Unit], past: Sequence[Table], allowance: float) -> list[Unit]:
    """Candidates that are not clearly worse than the leader, and whose loss is finite."""
    left = [unit for unit in left if table.seen[table.columns[unit]]]
    if not left:
        return []
    gaps = {unit: gap(table, unit, left[0], past) for unit in left}
    leader = min(left, key=lambda unit: gaps[unit].mean)
    rivals = len(left) - 1
    return [unit for unit in left if unit == leader or gap(table, unit, leader, past).p * rivals >= allowance]


def gap(table: Table, unit: Unit, other: Unit, past: Sequence[Table] = ()) -> Gap:
    """How far one unit is behind another, from the windows that both have seen in this race and in earlier ones.

    With n < m < ... windows seen now, in the table of a past race, in the next: D now and before, d a mean over the
    first n or m windows, the estimate is d(D, n) - d(D', n) + d(D', m) - ..., and since the samples are nested its
    variance is s2(D - D') (1/n - 1/m) + ... + s2(D) (1/last - 1/all).
    """
    windows, _, pieces = table.losses.shape
    count = known = table.both(unit, other)
    now = table.difference(unit, other, count)
    mean, variance = float(now.mean()), 0.0
    for earlier in past:
        further = earlier.both(unit, other)
        if further > known:
            then = earlier.difference(unit, other, further)
            mean += float(then.mean() - then[:known].mean())
            variance += spread(now - then[:count]) * (1 / known - 1 / further) / pieces
            known = further
    variance += spread(now) * (1 / known - 1 / windows) / pieces
    return Gap(mean, variance, count * pieces - 1)


def spread(values: Floats) -> float:
    """Variance of pieces [windows, pieces]; where the means of windows vary by more, what those say of pieces."""
    within = float(values.var(ddof=1)) if values.size > 1 else math.inf
    between = float(values.mean(1).var(ddof=1)) * values.shape[1] if len(values) > 1 else 0.0
    return max(within, between)


def tail(t: float, freedom: int) -> float:
    """Upper tail of Student's t, by Wallace's normal deviate (1959); a few per cent too high, from 15 degrees on.

    ``scipy.stats.t.sf`` is exact, takes 160 times as long, and would let candidates of some races leave a look earlier.
    """
    deviate = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))
    return math.erfc(deviate / math.sqrt(2)) / 2


def _result(table: Table, units: Sequence[Unit], left: Sequence[Unit], past: Sequence[Table], tokens: int) -> Raced:
    """Exact losses where all windows were seen, else the winner's plus the gap; infinite where one was not finite."""
    if not left:
        return Raced([math.inf] * len(units), list(table.seen))
    best = min(left, key=table.total)
    losses = [_loss(table, unit, best, past) / tokens for unit in units]
    return Raced(losses, list(table.seen))


def _loss(table: Table, unit: Unit, best: Unit, past: Sequence[Table]) -> float:
    """Sum over all windows, measured or estimated; an estimate is never below the winner's."""
    seen, windows = table.seen[table.columns[unit]], len(table.losses)
    if seen == windows:
        return table.total(unit)
    if not seen:
        return math.inf
    behind: float = gap(table, unit, best, past).mean * windows * table.losses.shape[2]
    return max(table.total(best) + behind, math.nextafter(table.total(best), math.inf))
