"""Lazy races: bounds come from the log, who is raced follows from them, and the winner is that of a race of all."""

import math
from dataclasses import replace

import pytest

from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll
from remodeler.pruning.config import Budget
from remodeler.pruning.search import lazy
from remodeler.pruning.search.lazy import NOTHING_KNOWN, Bounds, bounds_of, promising, race_lazily
from remodeler.pruning.search.loop import Search, prune
from remodeler.pruning.search.racing import Table, race
from remodeler.runs.removals import Step
from remodeler.runs.units import Block, Unit, name
from tiny import tiny_anatomy, tiny_windows
from units import candidates

DENSE = math.exp(2.0)


def unit(layer: int) -> Unit:
    return (Block(layer, "mlp"),)


def step(number: int, base: float, rises: dict[int, float], removed: int) -> Step:
    """A step of a log by the rises that it measured, in nats."""
    found: dict[str, float | None] = {name(unit(layer)): math.exp(base + rise) for layer, rise in rises.items()}
    return Step(number, unit(removed), found, math.exp(base + rises[removed]), 1, 0.0)


STEPS = [
    step(1, 2.0, {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.9}, removed=0),
    step(2, 2.1, {1: 0.15, 2: 0.35}, removed=1),
    step(3, 2.25, {2: 0.25}, removed=2),
]


def test_a_bound_is_the_last_rise_and_the_margin_the_largest_fall_a_step() -> None:
    found = bounds_of(DENSE, STEPS)
    assert found.base == pytest.approx(2.5)
    assert found.rises == pytest.approx({"mlp.0": 0.1, "mlp.1": 0.15, "mlp.2": 0.25, "mlp.3": 0.9})
    assert (found.ages["mlp.2"], found.ages["mlp.3"]) == (1, 3)
    assert found.margin == pytest.approx(0.1)
    assert found.lowest(unit(3)) == pytest.approx(0.9 - 3 * 0.1), "a fall for every step that it was not measured"
    assert found.lowest(unit(4)) == -math.inf


def test_old_falls_are_forgotten_and_rises_are_no_margin() -> None:
    later = [*STEPS, step(4, 2.5, {3: 1.0}, removed=3), step(5, 3.5, {3: 2.0}, removed=3)]
    assert bounds_of(DENSE, later).margin == 0.0
    assert bounds_of(DENSE, STEPS[:1]).margin is None
    assert bounds_of(DENSE, []) == Bounds(pytest.approx(2.0), {}, {}, None)


def test_all_are_raced_at_first_and_then_those_that_may_have_fallen_below_the_favourite() -> None:
    units = list(map(unit, range(20)))
    assert promising(units, NOTHING_KNOWN) == units
    rises = {name(each): 0.1 * number for number, each in enumerate(units)}
    ages = dict.fromkeys(rises, 1)
    assert promising(units, Bounds(0.0, rises, ages, 0.75)) == units[:8]
    assert promising(units, Bounds(0.0, rises, ages, 0.0)) == units[: lazy.FEWEST]
    assert promising(units, Bounds(0.0, rises, ages | {"mlp.19": 3}, 0.75)) == [*units[:8], units[19]]
    assert unit(20) in promising([*units, unit(20)], Bounds(0.0, rises, ages, 0.0)), "nothing is known of it"


def true_bounds(anatomy: Anatomy, units: list[Unit], **wrong: float) -> Bounds:
    """What measuring all units says, but for some that are made up."""
    windows = tiny_windows(count=20, length=24)
    base = mean_nll(anatomy, windows)
    rises = {}
    for each in units:
        with bypassed(anatomy, each):
            rises[name(each)] = mean_nll(anatomy, windows) - base
    return Bounds(base, rises | wrong, dict.fromkeys(rises, 1), 0.0)


def test_the_winner_is_that_of_a_race_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the favourite disappoints; the control is a best one whose bound was too high."""
    monkeypatch.setattr(lazy, "FEWEST", 1)
    anatomy, windows = tiny_anatomy("llama"), tiny_windows(count=20, length=24)
    units = candidates(anatomy, [])
    every = race(anatomy, windows, [], units, error=0)
    best = units[min(range(len(units)), key=every.losses.__getitem__)]
    worst = units[max(range(len(units)), key=every.losses.__getitem__)]

    def winner(bounds: Bounds) -> tuple[Unit, list[Unit], list[Table]]:
        past: list[Table] = []
        raced, found = race_lazily(anatomy, windows, [], units, bounds, past_races=past, error=0)
        whole = dict(zip(units, every.losses, strict=True))
        assert [whole[each] for each in raced] == found.losses
        return raced[min(range(len(raced)), key=found.losses.__getitem__)], raced, past

    bounds = true_bounds(anatomy, units)
    assert winner(bounds)[:2] == (best, [best])
    misled = true_bounds(anatomy, units, **{name(worst): -9.0})
    first, raced, past = winner(misled)
    assert first == best
    assert raced == units, "all are cheaper than the favourite turned out to be"
    assert len(past) == 1
    hidden = true_bounds(anatomy, units, **{name(best): 9.0})
    assert winner(hidden)[0] != best
    assert winner(replace(hidden, margin=99.0))[0] == best, "a margin that covers the fall finds it"


def test_a_lazy_search_removes_what_a_race_of_all_removes_and_measures_less() -> None:
    anatomy, windows = tiny_anatomy("llama", num_hidden_layers=8), tiny_windows(count=20, length=24)
    search = Search(anatomy, windows, Budget(remove=5), strategy="race", error=0.01)
    whole, few = prune(search), prune(replace(search, strategy="lazy"))
    assert [each.removed for each in few] == [each.removed for each in whole]
    assert [each.perplexity for each in few] == pytest.approx([each.perplexity for each in whole])
    assert sum(len(each.importance) for each in few) < 0.7 * sum(len(each.importance) for each in whole)
