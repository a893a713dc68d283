"""The race: the exact search's winner from fewer evaluations, with errors no more frequent than was asked for."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from torch import Tensor, distributed

from forks import found_by_two
from remodeler.checkpoint.load import load
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.evaluation.metrics import model_windows
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import window_nll
from remodeler.model.minibatches import to_batch
from remodeler.pruning.criteria.sweep import sweep
from remodeler.pruning.search.racing import (
    PIECE,
    Floats,
    Gap,
    Raced,
    Table,
    gap,
    looks,
    loss_of_pieces,
    race,
    spread,
    tail,
)
from remodeler.runs.units import Block, Unit
from tiny import tiny_anatomy, tiny_windows
from units import candidates, counting

A, M = "attention", "mlp"
TEXT = ("text", 0)


def units(count: int) -> list[Unit]:
    return [(Block(layer, M),) for layer in range(count)]


def table_of(losses: Floats, seen: Sequence[int] | None = None, removed: Sequence[Block] = ()) -> Table:
    columns = {unit: column for column, unit in enumerate(units(losses.shape[1]))}
    return Table(TEXT, frozenset(removed), columns, losses, list(seen or [len(losses)] * losses.shape[1]))


class Given:
    """Stands where the sweep is: losses that are known, [windows, units, pieces]."""

    def __init__(self, losses: Floats) -> None:
        self.losses = losses
        self.windows = Windows(*[torch.arange(len(losses))[:, None].expand(-1, PIECE * losses.shape[2])] * 2)
        self.asked = 0

    def __call__(self, _: Any, part: Windows, __: Any, left: Sequence[Unit], *___: Any) -> Tensor:
        self.asked += len(part) * len(left)
        return torch.from_numpy(self.losses[part.ids[:, 0].numpy()][:, [unit[0].layer for unit in left]])


def raced(losses: Floats, **options: Any) -> Raced:
    given = Given(losses)
    return race(None, given.windows, [], units(losses.shape[1]), losses=given, **options)  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape)


# --- the test


@pytest.mark.parametrize(
    ("t", "freedom", "p"),  # a printed table of Student's t
    [
        (3.733, 15, 1e-3),
        (4.073, 15, 5e-4),
        (3.385, 30, 1e-3),
        (3.232, 60, 1e-3),
        (3.460, 60, 5e-4),
        (2.326, 10**6, 0.01),
    ],
)
def test_the_tail_is_that_of_students_t(t: float, freedom: int, p: float) -> None:
    assert tail(t, freedom) == pytest.approx(p, rel=0.02)


@pytest.mark.parametrize("freedom", [15, 31, 255])
def test_the_tail_is_that_of_scipy_but_never_smaller_where_it_decides(freedom: int) -> None:
    for t in np.arange(2, 7, 0.25):
        assert 1 - 1e-4 < tail(float(t), freedom) / student.sf(t, freedom) < 1.045


def test_a_gap_is_the_paired_t_test_of_a_finite_population() -> None:
    losses = noise(20, 2, 4) + noise(20, 1, 4, seed=1)
    found = gap(table_of(losses, [8, 20]), *units(2))
    sample = (losses[:8, 0] - losses[:8, 1]).flatten()
    assert found.mean == pytest.approx(sample.mean())
    assert found.freedom == 31
    within = sample.var(ddof=1)
    assert found.variance >= within / 32 * (1 - 8 / 20) * (1 - 1e-12)
    assert gap(table_of(losses), *units(2)).variance == 0, "the whole text leaves no doubt"


def test_spread_is_that_of_the_pieces_or_of_the_windows_where_those_differ_more() -> None:
    values = noise(30, 8)
    alike = values - values.mean(1, keepdims=True)
    assert spread(alike) == pytest.approx(alike.var(ddof=1))
    apart = alike + noise(30, 1, seed=1)
    assert spread(apart) == pytest.approx(8 * apart.mean(1).var(ddof=1))
    assert spread(apart) > 3 * apart.var(ddof=1)


def chain(order: Floats, remembered: bool) -> tuple[Gap, float]:
    """The estimate after 6 of 40 windows, where earlier models were seen on 15 and on 30; and the truth."""
    first, second, now = ((noise(40, 2, 4, seed=seed) * part) for seed, part in ((1, 1), (2, 0.3), (3, 0.3)))
    second = second + first
    now = now + second + np.array([0.2, 0])[:, None]  # what changes may have a mean
    tables = [table_of(each[order], [seen] * 2) for each, seen in ((now, 6), (second, 15), (first, 30))]
    found = gap(tables[0], *units(2), tables[1:] if remembered else [])
    return found, float((now[:, 0] - now[:, 1]).mean())


def test_earlier_races_sharpen_the_estimate_and_do_not_shift_it() -> None:
    """Over random orders: the mean is the truth, the variance what is claimed, and less than without them."""
    rng = np.random.default_rng(5)
    orders = [rng.permutation(40) for _ in range(500)]
    spreads = {}
    for remembered in (True, False):
        found = [chain(order, remembered)[0] for order in orders]
        means = np.array([each.mean for each in found])
        spreads[remembered] = means.var()
        assert means.mean() == pytest.approx(chain(orders[0], True)[1], abs=4 * means.std() / math.sqrt(len(orders)))
        claimed = float(np.mean([each.variance for each in found]))
        assert 0.85 < claimed / spreads[remembered] < 1.6  # above 1: the larger of two estimates is taken
    assert spreads[True] < 0.6 * spreads[False]


def test_a_race_over_the_same_model_is_known_already() -> None:
    losses = noise(40, 2, 4)
    assert gap(table_of(losses, [4, 4]), *units(2), [table_of(losses)]) == Gap(
        pytest.approx((losses[:, 0] - losses[:, 1]).mean()), 0.0, 15
    )


# --- the race


def test_looks_grow_by_a_quarter_to_the_whole_text() -> None:
    assert looks(24, 8) == [2, 3, 4, 5, 7, 9, 12, 15, 19, 24]
    assert looks(24, 1) == [16, 20, 24]
    assert looks(3, 32) == [2, 3]
    assert looks(1, 8) == [1]


def test_clearly_worse_candidates_leave_and_the_last_one_reads_on_alone() -> None:
    losses = noise(60, 5, 8) * 0.1 + np.arange(5)[:, None]
    given = Given(losses)
    found = race(None, given.windows, [], units(5), losses=given)  # type: ignore[arg-type]
    tokens = given.windows.tokens
    assert found.seen == [60, 2, 2, 2, 2]
    assert given.asked == 60 + 4 * 2
    assert found.losses[0] == pytest.approx(losses[:, 0].sum() / tokens)
    assert found.losses == pytest.approx(losses.sum((0, 2)) / tokens, rel=0.1)


def test_nobody_leaves_at_error_0_and_ties_go_to_the_first() -> None:
    losses = np.concatenate([noise(20, 1, 4) + 1, np.repeat(noise(20, 1, 4), 2, axis=1)], axis=1)
    found = raced(losses, error=0)
    assert found.seen == [20, 20, 20]
    assert found.losses[1] == found.losses[2] == min(found.losses)
    assert raced(losses, error=0.5).seen[1:] == [20, 20], "no gap, no reason to leave"


def equals(seed: int) -> Floats:
    """Ten candidates that differ by chance only: on every text another one is the best."""
    return noise(60, 10, 8, seed=seed) + noise(60, 10, 1, seed=seed + 1000) * 0.3


def wrong(error: float, seeds: range) -> float:
    """Share of races that another than the best candidate wins."""
    best = [equals(seed).sum((0, 2)).argmin() for seed in seeds]
    won = [np.argmin(raced(equals(seed), error=error, seed=seed).losses) for seed in seeds]
    return float(np.mean(np.not_equal(best, won)))


def test_the_best_is_dropped_no_more_often_than_was_asked_for() -> None:
    """The worst case, all equal; the control takes the leader of the first look."""
    assert 0 < wrong(0.2, range(100)) <= 0.2
    assert wrong(1e6, range(100)) > 0.5


def test_what_other_races_saw_saves_windows() -> None:
    before = noise(60, 6, 8)
    now = before + noise(60, 6, 8, seed=1) * 0.1 + np.linspace(0, 0.3, 6)[:, None]
    memory: list[Table] = []
    raced(before, error=0, past_races=memory)
    with_it, without = raced(now, past_races=memory), raced(now)
    assert np.argmin(with_it.losses) == np.argmin(without.losses) == now.sum((0, 2)).argmin()
    assert sum(with_it.seen) < 0.6 * sum(without.seen)
    assert len(memory) == 2


def test_what_was_seen_in_another_order_is_no_help() -> None:
    memory: list[Table] = []
    before, now = noise(60, 6, 8), noise(60, 6, 8) + np.linspace(0, 0.3, 6)[:, None]
    raced(before, error=0, past_races=memory, seed=7)
    assert raced(now, past_races=memory) == raced(now)


def test_losses_that_are_not_finite_leave_at_once() -> None:
    losses = noise(60, 4, 8) * 0.1 + np.arange(4)[:, None]
    losses[:, 0, 3] = np.nan
    losses[::2, 2] = np.inf
    found = raced(losses)
    assert found.losses[0] == found.losses[2] == math.inf
    assert np.argmin(found.losses) == 1
    assert raced(np.full((60, 3, 8), np.nan)).losses == [math.inf] * 3


def test_progress_grows_to_one() -> None:
    shares: list[float] = []
    anatomy = tiny_anatomy("llama")
    race(anatomy, tiny_windows(count=20), [], candidates(anatomy, []), progress=lambda share, _: shares.append(share))
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1


# --- over a model


@pytest.mark.parametrize(("name", "task"), [("llama", "causal"), ("bert", "masked"), ("t5", "seq2seq")])
def test_pieces_add_up_to_their_window(name: str, task: str) -> None:
    anatomy, windows = tiny_anatomy(name), tiny_windows(task)
    batch = to_batch(windows, torch.device("cpu"))
    prepare, shape = loss_of_pieces(3)
    with torch.no_grad():
        found = prepare(anatomy, batch)(anatomy, batch)
        assert found.shape == (4, *shape)
        assert (found != 0).all()
        assert torch.equal(found.sum(1), window_nll(anatomy, batch))


@pytest.mark.parametrize("removed", [[], [Block(1, M), Block(2, A)]], ids=["intact", "two removed"])
def test_a_race_that_nobody_leaves_is_the_exact_sweep(removed: list[Block]) -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows(count=9)
    found = race(anatomy, windows, removed, candidates(anatomy, removed), size=1, error=0)
    assert found.losses == sweep(anatomy, windows, removed, candidates(anatomy, removed), size=1)


def loud(anatomy: Anatomy) -> Anatomy:
    """A model whose blocks matter unequally, the later the more: three of eight leave a race early."""
    with torch.no_grad():
        for layer, block in enumerate(anatomy.model.model.layers):
            block.mlp.down_proj.weight.mul_(2.0**layer)
            block.self_attn.o_proj.weight.mul_(2.0**layer)
    return anatomy


def search(run: Callable[[Anatomy, list[Block]], Sequence[float]], anatomy: Anatomy, steps: int) -> list[Block]:
    removed: list[Block] = []
    for _ in range(steps):
        losses = run(anatomy, removed)
        removed += candidates(anatomy, removed)[int(np.argmin(losses))]
    return removed


def test_the_search_removes_the_same_blocks_with_fewer_evaluations() -> None:
    anatomy, windows, memory = loud(tiny_anatomy("llama")), tiny_windows(count=48, length=24), list[Table]()
    with counting(anatomy) as exact:
        first = search(lambda a, gone: sweep(a, windows, gone, candidates(a, gone), 2), anatomy, 2)
    with counting(anatomy) as fewer:
        second = search(
            lambda a, gone: race(a, windows, gone, candidates(a, gone), size=2, past_races=memory).losses, anatomy, 2
        )
    assert first == second
    assert len(fewer) < 0.95 * len(exact)


def one_of_two(rank: int, store: str) -> list[Any]:
    """What one of two processes finds, and how many blocks it evaluated."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = two_races()
    distributed.destroy_process_group()
    return found


def two_races() -> list[Any]:
    anatomy, windows, memory = loud(tiny_anatomy("llama")), tiny_windows(count=48, length=24), list[Table]()
    with counting(anatomy) as ran:
        found = [
            race(anatomy, windows, gone, candidates(anatomy, gone), size=4, past_races=memory)
            for gone in ([], [Block(0, M)])
        ]
    assert any(count < 48 for each in found for count in each.seen), "nobody left"
    return [[each.losses, each.seen] for each in found] + [len(ran)]


@pytest.mark.skipif(not distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_share_a_race_and_decide_alike(tmp_path: Path) -> None:
    *alone, ran = two_races()
    (*first, did), (*second, did_too) = found_by_two(__file__, tmp_path / "store")
    assert first == second == alone
    assert did + did_too == ran
    assert min(did, did_too) > 0


@pytest.mark.shared
def test_a_real_model_loses_the_same_blocks_in_a_race(shared: Path) -> None:
    checkpoint = load(str(shared / "models" / "stories12l"), dtype="float32", device="cpu")
    texts = sample(shared / "data" / "tinystories" / "part_a.txt", 20).calibration
    anatomy, windows, memory = checkpoint.anatomy, model_windows(checkpoint, texts, 64)[:24], list[Table]()
    found = search(lambda a, gone: race(a, windows, gone, candidates(a, gone), past_races=memory).losses, anatomy, 2)
    assert found == search(lambda a, gone: sweep(a, windows, gone, candidates(a, gone)), anatomy, 2)
    assert sum(count == len(windows) for count in memory[1].seen) < 20
