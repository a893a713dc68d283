"""Learning keep-probabilities: the projection's closed form, an unbiased estimate, and the same result after a kill."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.pruning.width import policy as policy_module
from remodeler.pruning.width.policy import Policy, first_rates, gradient, learn, update_baseline
from remodeler.pruning.width.projection import Pool, project
from remodeler.pruning.width.store import HISTORY_FILE, STATE_FILE, Store

UNITS = 4


def by_sorting(values: Tensor, budget: float) -> Tensor:
    """The projection for equal costs, in closed form: the sum is piecewise linear in v, with breaks at x and x - 1."""
    if values.clamp(0, 1).sum() <= budget:
        return values.clamp(0, 1)
    breaks = torch.cat([values, values - 1]).clamp(min=0).sort().values
    sums = (values - breaks[:, None]).clamp(0, 1).sum(1)
    after = int((sums > budget).nonzero().max()) + 1  # the sum falls: v lies before the first break that is low enough
    share = (sums[after - 1] - budget) / (sums[after - 1] - sums[after])
    shift = breaks[after - 1] + share * (breaks[after] - breaks[after - 1])
    return (values - shift).clamp(0, 1)


@pytest.mark.parametrize("seed", range(20))
def test_the_projection_is_the_closed_form(seed: int) -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    budget = 5.0 + seed
    found = project(values, torch.ones_like(values), budget)
    torch.testing.assert_close(found, by_sorting(values, budget), rtol=0, atol=1e-12)
    assert found.sum() <= budget + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_no_point_that_keeps_the_budget_is_nearer_with_unequal_costs(seed: int) -> None:
    """The first-order condition of the nearest point p: (x - p) (q - p) <= 0 for every q that keeps the budget."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.rand(30, generator=draw, dtype=torch.float64) * 2 - 0.3
    costs, budget = torch.rand(30, generator=draw, dtype=torch.float64) + 0.1, 6.0
    nearest = project(values, costs, budget)
    assert (costs * nearest).sum() == pytest.approx(budget, abs=1e-9)
    for _ in range(100):
        other = torch.rand(30, generator=draw, dtype=torch.float64)
        other *= min(1.0, budget / float((costs * other).sum()))
        assert ((values - nearest) * (other - nearest)).sum() <= 1e-9


def test_what_keeps_the_budget_is_only_clamped() -> None:
    values = torch.tensor([-1.0, 0.25, 3.0], dtype=torch.float64)
    assert project(values, torch.ones_like(values), 2.0).tolist() == [0.0, 0.25, 1.0]


def objective(masks: Tensor) -> Tensor:
    """A loss that is no sum over units: [..., UNITS] to [...]."""
    m = masks.double()
    return 3.0 - m[..., 0] - 2 * m[..., 1] * m[..., 2] + 0.5 * m[..., 3] * m[..., 0] - 0.3 * m[..., 2]


EVERY = torch.tensor(list(itertools.product([False, True], repeat=UNITS)))


def chances(probabilities: Tensor) -> Tensor:
    """Probability of every mask: [2 ** UNITS]."""
    return torch.where(EVERY, probabilities, 1 - probabilities).prod(1)


def slope(probabilities: Tensor) -> Tensor:
    """Gradient of the expected loss, by automatic differentiation of the sum over all masks."""
    s = probabilities.clone().requires_grad_()
    (chances(s) * objective(EVERY)).sum().backward()
    assert s.grad is not None
    return s.grad


def expected(estimate: Callable[[Tensor], Tensor], probabilities: Tensor) -> Tensor:
    """Mean of an estimate over all pairs of masks."""
    pairs = [(a, b) for a in range(len(EVERY)) for b in range(len(EVERY))]
    weights = chances(probabilities)
    return sum((weights[a] * weights[b] * estimate(EVERY[[a, b]]) for a, b in pairs), torch.zeros(UNITS).double())


PROBABILITIES = torch.tensor([0.9, 0.3, 0.6, 0.15], dtype=torch.float64)


def test_the_exact_score_with_the_mean_of_its_own_masks_is_unbiased() -> None:
    def estimate(masks: Tensor) -> Tensor:
        losses = objective(masks)
        _, baseline = update_baseline(losses, torch.tensor(7.0).double(), memory=1)
        return gradient(losses, masks, PROBABILITIES, baseline)

    torch.testing.assert_close(expected(estimate, PROBABILITIES), slope(PROBABILITIES), rtol=0, atol=1e-12)


def test_masks_that_take_turns_are_unbiased_too() -> None:
    """Units 2 and 3 are the same in both masks: no gradient of theirs, the exact one of the others."""

    def estimate(masks: Tensor) -> Tensor:
        shared = torch.cat([masks[:, :2], masks[:1, 2:].expand(2, 2)], 1)
        losses = objective(shared)
        return gradient(losses, shared, PROBABILITIES, losses.mean())

    wanted = slope(PROBABILITIES) * torch.tensor([1, 1, 0, 0])
    torch.testing.assert_close(expected(estimate, PROBABILITIES), wanted, rtol=0, atol=1e-12)


def test_in_turns_masks_of_a_step_differ_in_one_pool_only() -> None:
    seen: list[Tensor] = []

    def watched(step: int, masks: Tensor) -> Tensor:
        seen.append((masks[0] != masks[1]).nonzero().flatten())
        return objective(masks[:, :UNITS])

    pools = [Pool(slice(0, 30), 15.0, torch.ones(30).double()), Pool(slice(30, 60), 15.0, torch.ones(30).double())]
    start = torch.full((60,), 0.5).double()
    learn(start, pools, watched, Policy(steps=4, lr=0.1), 42, Store(None, {}))
    assert [bool((different < 30).all()) for different in seen] == [True, False, True, False]
    assert all(len(different) for different in seen)
    learn(start, pools, watched, Policy(steps=1, lr=0.1, turns=False), 42, Store(None, {}))
    assert 0 < int((seen[-1] < 30).sum()) < len(seen[-1])


def test_a_baseline_that_remembers_scales_the_exact_gradient() -> None:
    """(K - 1/T) / (K - 1): 1.8 with the released code's K = 2 and T = 5."""

    def estimate(masks: Tensor) -> Tensor:
        losses = objective(masks)
        _, baseline = update_baseline(losses, torch.tensor(2.5).double(), memory=5)
        return gradient(losses, masks, PROBABILITIES, baseline)

    torch.testing.assert_close(expected(estimate, PROBABILITIES), 1.8 * slope(PROBABILITIES), rtol=0, atol=1e-12)


def test_the_root_is_another_direction() -> None:
    """The control: the released code's variant is the gradient times sqrt(s (1 - s)), unit by unit."""

    def estimate(masks: Tensor) -> Tensor:
        losses = objective(masks)
        return gradient(losses, masks, PROBABILITIES, losses.mean(), "root")

    found, exact = expected(estimate, PROBABILITIES), slope(PROBABILITIES)
    torch.testing.assert_close(found, exact * (PROBABILITIES * (1 - PROBABILITIES)).sqrt(), rtol=0, atol=1e-5)
    assert torch.cosine_similarity(found, exact, dim=0) < 0.99


def test_losses_that_are_not_finite_are_skipped() -> None:
    masks = EVERY[[3, 5, 6]]
    losses = torch.tensor([1.0, math.nan, 2.0]).double()
    mean, baseline = update_baseline(losses, torch.tensor(math.nan).double(), memory=5)
    assert mean.item() == 1.5
    assert baseline.item() == pytest.approx(1.5)
    found = gradient(losses, masks, PROBABILITIES, baseline)
    torch.testing.assert_close(found, gradient(losses[[0, 2]], masks[[0, 2]], PROBABILITIES, baseline) / 2)
    nothing = torch.full((2,), math.nan).double()
    assert update_baseline(nothing, torch.tensor(4.0).double(), memory=1)[1] == 4
    assert gradient(nothing, EVERY[:2], PROBABILITIES, torch.tensor(math.nan)).tolist() == [0] * UNITS


def toy(step: int, masks: Tensor) -> Tensor:
    return objective(masks) + step % 3  # batches are not equally hard


HALF = Pool(slice(0, UNITS), 2.0, torch.ones(UNITS).double())
START = torch.full((UNITS,), 0.5).double()


def test_learning_finds_the_best_masks_of_the_budget() -> None:
    """By enumeration: of all masks that keep two units, 1 and 2 together lose least."""
    pairs = EVERY[EVERY.sum(1) == 2]
    best = pairs[objective(pairs).argmin()]
    found, history = learn(START, [HALF], toy, Policy(steps=150, lr=0.15), 42, Store(None, {}))
    assert (found > 0.5).tolist() == best.tolist()
    assert found.sum() <= 2 + 1e-9
    assert len(history) == 150
    assert [line["step"] for line in history] == list(range(1, 151))
    assert sum(line["loss"] for line in history[-30:]) < sum(line["loss"] for line in history[:30])


def test_the_scale_of_the_losses_does_not_matter() -> None:
    """Without a rate it is found: losses in other units give the same probabilities. The control has a rate."""

    def louder(step: int, masks: Tensor) -> Tensor:
        return 1024 * toy(step, masks)

    def learned(trial: Callable[[int, Tensor], Tensor], **options: float) -> Tensor:
        return learn(START, [HALF], trial, Policy(steps=50, **options), 42, Store(None, {}))[0]  # type: ignore[arg-type]

    torch.testing.assert_close(learned(toy), learned(louder))
    assert not torch.allclose(learned(toy, lr=0.01), learned(louder, lr=0.01), atol=0.1)


@pytest.mark.parametrize("score", ["exact", "root"])
def test_by_noise_alone_a_probability_goes_as_far_as_was_asked(score: Any) -> None:
    """Of two pools whose units weigh 1 and 30, by the formula for a sum of independent draws; each has its own rate."""
    weights = torch.tensor([1.0] * 40 + [30.0] * 10).double()
    pools = [Pool(part, 99.0, torch.ones(part.stop - part.start).double()) for part in (slice(0, 40), slice(40, 50))]
    policy = Policy(steps=600, reach=0.2, score=score)
    found = first_rates(torch.full((50,), 0.5).double(), pools, lambda _, masks: masks.double() @ weights, policy, 0)
    for pool in pools:
        noise = (weights[pool.part].square().sum() * 0.25).sqrt()  # of the losses
        step = noise / (0.5 if score == "exact" else 1.0)  # of the estimate
        walk = found[pool.part] * step * math.sqrt(600 / 2 * 3 / 8)
        torch.testing.assert_close(walk, torch.full_like(walk, 0.2), rtol=0.5, atol=0)  # 8 pairs: a quarter off
    assert len(found.unique()) == 2


@pytest.mark.parametrize("loss", [1.0, math.inf, math.nan])
def test_without_a_difference_to_be_seen_nothing_moves(loss: float) -> None:
    found, _ = learn(
        START, [HALF], lambda _, masks: torch.full((len(masks),), loss).double(), Policy(steps=4), 42, Store(None, {})
    )
    assert torch.equal(found, START)


def test_losses_that_are_not_finite_do_not_count_in_the_spread() -> None:
    def torn(step: int, masks: Tensor) -> Tensor:
        losses = toy(step, masks)
        return torch.where(torch.tensor([step == 1, step == 2]), math.inf, losses)

    found = first_rates(START, [HALF], torn, Policy(), 42)
    assert (found > 0).all()
    torch.testing.assert_close(found, first_rates(START, [HALF], toy, Policy(), 42), rtol=1.0, atol=0)


def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_module, "FLUSH", 5)
    policy, store = Policy(steps=40, lr=0.1, save_every=0), Store(tmp_path, {"seed": 42})
    whole, lines = learn(START, [HALF], toy, policy, 42, Store(None, {}))

    def killed(step: int, masks: Tensor) -> Tensor:
        if step == 23:
            raise KeyboardInterrupt
        return toy(step, masks)

    with pytest.raises(KeyboardInterrupt):
        learn(START, [HALF], killed, policy, 42, store)
    with (tmp_path / HISTORY_FILE).open("a") as file:
        file.write('{"step": 21, "loss": 0.0}\n{"step": 22')  # ahead of the state, and torn
    steps: list[int] = []

    def heard(step: int, masks: Tensor) -> Tensor:
        steps.append(step)
        return toy(step, masks)

    again, history = learn(START, [HALF], heard, policy, 42, store)
    assert steps == list(range(20, 40))
    assert torch.equal(again, whole)
    assert history == lines
    assert len((tmp_path / HISTORY_FILE).read_text().splitlines()) == 40
    assert not list(tmp_path.glob("*.partial"))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    policy, store = Policy(steps=10), Store(tmp_path, {})
    done, lines = learn(START, [HALF], toy, policy, 42, store)

    def never(step: int, masks: Tensor) -> Tensor:
        raise AssertionError

    again, history = learn(START, [HALF], never, policy, 42, store)
    assert torch.equal(again, done)
    assert history == lines


def test_the_state_of_another_search_is_refused(tmp_path: Path) -> None:
    learn(START, [HALF], toy, Policy(steps=1), 42, Store(tmp_path, {"seed": 1}))
    with pytest.raises(InputError, match="seed was 1, is 2"):
        Store(tmp_path, {"seed": 2}).load()
    (tmp_path / STATE_FILE).write_bytes(b"broken")
    with pytest.raises(InputError, match="can't be read"):
        Store(tmp_path, {"seed": 1}).load()


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"masks": 1},
        {"memory": 0},
        {"margin": 0.5},
        {"lr": 0.0},
        {"reach": 0.0},
        {"bunch": 0},
        {"score": "none"},
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Policy(**options)  # type: ignore[arg-type]
