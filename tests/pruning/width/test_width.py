"""Widths: the budget is met by less than a group, the best groups stay, and a killed job ends alike."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from forks import found_by_two
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll
from remodeler.model.widths import Structure, Widths, masked, narrowed, parameters_left, structures
from remodeler.pruning.search.budget import share
from remodeler.pruning.width import policy as policy_module
from remodeler.pruning.width import width as width_module
from remodeler.pruning.width.channel_groups import budgets, make_bunches
from remodeler.pruning.width.initial import to_probabilities, wanda
from remodeler.pruning.width.selection import Rules, kept_groups, removed_units, wanted_parameters
from remodeler.pruning.width.store import HISTORY_FILE, STATE_FILE
from remodeler.pruning.width.trials import Feed, group_trial, unit_trial
from remodeler.pruning.width.width import WIDTH_METHODS, WidthResult, thin
from remodeler.runs.units import Block
from tiny import tiny_anatomy, tiny_windows

A, M = "attention", "mlp"
RATIOS = (0.02, 0.15, 0.3)
QUICK: dict[str, dict[str, Any]] = {"policy-gradient": {"steps": 4}, "hybrid-grained": {"rounds": 2}}


def some_scores(found: Mapping[Block, Structure], seed: int = 0) -> dict[Block, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {block: torch.rand(each.groups, generator=draw) for block, each in found.items()}


def reached(anatomy: Anatomy, widths: Widths, removed: list[Block] | None = None) -> float:
    return 1 - parameters_left(anatomy, removed or [], widths) / anatomy.parameters()


# The budget -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["separate", "shared"])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_the_ratio_is_reached_and_passed_by_less_than_a_channel(name: str, ratio: float, pooling: Any) -> None:
    anatomy = tiny_anatomy(name)
    found = structures(anatomy)
    wanted = wanted_parameters(anatomy, [], ratio)
    widths = kept_groups(found, some_scores(found), wanted, Rules(pooling))
    least = min(each.parameters for each in found.values()) / anatomy.parameters()
    assert ratio <= reached(anatomy, widths) < ratio + least
    left = parameters_left(anatomy, [], widths)
    with narrowed(anatomy, widths):
        assert sum(p.numel() for p in anatomy.model.parameters()) == left


def test_blocks_that_are_gone_count_towards_the_ratio() -> None:
    anatomy, removed = tiny_anatomy("llama"), [Block(1, M), Block(2, A)]
    found = {block: each for block, each in structures(anatomy).items() if block not in removed}
    wanted = wanted_parameters(anatomy, removed, 0.3)
    widths = kept_groups(found, some_scores(found), wanted, Rules())
    assert 0.3 <= reached(anatomy, widths, removed) < 0.3 + 96 / anatomy.parameters()
    assert kept_groups(found, some_scores(found), wanted_parameters(anatomy, removed, 0.01), Rules()) == {}


def test_of_one_kind_the_best_stay() -> None:
    anatomy = tiny_anatomy("llama")
    found = {block: each for block, each in structures(anatomy).items() if block.kind == M}
    scores = some_scores(found)
    widths = kept_groups(found, scores, 50 * 96, Rules())
    ranked = sorted((float(value), block, at) for block, each in scores.items() for at, value in enumerate(each))
    gone = {(block, at) for _, block, at in ranked[:50]}
    assert gone == {(block, at) for block in widths for at in set(range(48)) - set(widths[block])}


def test_ranked_together_a_head_goes_before_every_better_channel() -> None:
    anatomy = tiny_anatomy("llama")
    found = structures(anatomy)
    scores = {block: torch.arange(each.groups) / 100 + 1 for block, each in found.items()}
    scores[Block(2, A)] = torch.tensor([0.5, 3.0])
    assert kept_groups(found, scores, found[Block(2, A)].parameters, Rules("shared")) == {Block(2, A): (1,)}
    assert Block(2, A) not in kept_groups(found, scores, found[Block(2, A)].parameters, Rules("separate"))


def test_separate_budgets_take_the_same_share_of_heads_to_the_nearest() -> None:
    anatomy = tiny_anatomy("llama")
    found = structures(anatomy)
    total = sum(each.groups * each.parameters for each in found.values())
    for heads in range(5):
        widths = kept_groups(found, some_scores(found), total * heads // 8, Rules("separate"))
        assert sum(2 - len(kept) for block, kept in widths.items() if block.kind == A) == heads


def test_every_block_keeps_a_group_and_more_is_refused() -> None:
    anatomy = tiny_anatomy("llama")
    found = structures(anatomy)
    most = sum((each.groups - 1) * each.parameters for each in found.values())
    widths = kept_groups(found, some_scores(found), most, Rules())
    assert [len(widths[block]) for block in found] == [1] * len(found)
    with pytest.raises(InputError, match="give a smaller `ratio`"):
        kept_groups(found, some_scores(found), most + 1, Rules())


@pytest.mark.parametrize("pooling", ["separate", "shared"])
def test_uniform_widths_are_equal_in_all_layers_and_best_in_each(pooling: Any) -> None:
    anatomy = tiny_anatomy("llama")
    found = structures(anatomy)
    scores = some_scores(found)
    widths = kept_groups(found, scores, wanted_parameters(anatomy, [], 0.25), Rules(pooling, uniform=True))
    for kind in (A, M):
        assert len({len(widths.get(block, range(found[block].groups))) for block in found if block.kind == kind}) == 1
    for block, kept in widths.items():
        assert list(kept) == sorted(scores[block].topk(len(kept)).indices.tolist())
    assert reached(anatomy, widths) >= 0.25


def test_channels_come_in_multiples() -> None:
    anatomy = tiny_anatomy("llama", intermediate_size=45)
    found = structures(anatomy)
    widths = kept_groups(found, some_scores(found), wanted_parameters(anatomy, [], 0.25), Rules(multiple=8))
    kept = [len(widths[block]) for block in widths if block.kind == M]
    assert kept
    assert all(count % 8 == 0 and count for count in kept)
    assert reached(anatomy, widths) >= 0.25


def test_whole_blocks_go_until_the_ratio_is_reached_and_the_last_attention_stays() -> None:
    anatomy = tiny_anatomy("llama")
    units = [(block,) for block in anatomy.blocks()]
    gone = removed_units(anatomy, units, list(range(len(units))), [], wanted_parameters(anatomy, [], 0.3))
    assert share(anatomy, gone) >= 0.3
    assert min(share(anatomy, [other for other in gone if other != block]) for block in gone) < 0.3
    assert sum(block.kind == A for block in gone) <= 3
    with pytest.raises(InputError, match="too many"):
        removed_units(anatomy, units, [0.0] * len(units), [], anatomy.parameters())


# First probabilities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sigmap", "norm", "constant"])
def test_probabilities_have_the_density_as_their_mean_and_keep_the_order(how: Any) -> None:
    scores = torch.randn(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for density in (0.1, 0.6, 0.95):
        found = to_probabilities(scores, density, how)
        assert found.mean().item() == pytest.approx(density, abs=1e-9)
        assert (found[scores.argsort()].diff() >= 0).all()
        assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_first_score_is_the_mean_weight_times_the_norm_of_its_input(name: str) -> None:
    anatomy, windows = tiny_anatomy(name), tiny_windows()
    found, block = structures(anatomy), Block(2, M)
    layer = anatomy.branches[block].site.layer
    out: Any = layer.get_submodule(found[block].out)
    seen: list[Tensor] = []
    handle = out.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    anatomy.model(windows.ids)
    handle.remove()
    weight = out.weight.detach() if name == "llama" else out.weight.detach().T
    wanted = weight.abs().mean(0) * seen[0].flatten(0, 1).norm(dim=0)
    score = wanda(anatomy, windows, [], found, size=3)
    torch.testing.assert_close(score[block].float(), wanted, rtol=1e-4, atol=0)
    assert [len(score[each]) for each in found] == [structure.groups for structure in found.values()]


# Bunches --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bunch", [1, 5, 48, 100])
def test_bunches_are_neighbours_in_the_order_of_the_first_scores(bunch: int) -> None:
    found = structures(tiny_anatomy("llama"))
    scores = some_scores(found)
    bunches = make_bunches(found, scores, bunch)
    heads = sum(each.groups for block, each in found.items() if block.kind == A)
    assert bunches.parts == {A: slice(0, heads), M: slice(heads, len(bunches.sizes))}
    assert bunches.sizes.tolist() == torch.bincount(bunches.owner).tolist()
    assert bunches.sizes[:heads].tolist() == [1] * heads
    assert bunches.sizes.max() == min(bunch, 48)
    row = torch.cat(list(scores.values()))
    for number in range(len(bunches.sizes)):
        members = row[bunches.owner == number]
        assert bunches.first[number].item() == pytest.approx(members.mean().item())
    for block, part in zip(found, bunches.owner.split([each.groups for each in found.values()]), strict=True):
        assert (part[scores[block].argsort()].diff() >= 0).all()  # no bunch lies inside another


def test_a_bunch_is_masked_as_one_and_inside_it_the_first_scores_decide() -> None:
    found = structures(tiny_anatomy("llama"))
    scores = some_scores(found)
    bunches = make_bunches(found, scores, 16)
    drawn = torch.rand(2, len(bunches.sizes), generator=torch.Generator().manual_seed(0)) < 0.5
    masks = bunches.masks(drawn)
    assert masks.shape == (2, sum(each.groups for each in found.values()))
    for number in range(len(bunches.sizes)):
        assert (masks[:, bunches.owner == number] == drawn[:, number, None]).all()
    flat = bunches.scores(torch.full((len(bunches.sizes),), 0.5, dtype=torch.float64))
    for block, each in flat.items():
        assert each.argsort().tolist() == scores[block].argsort().tolist()


def test_the_first_probabilities_of_bunches_keep_the_budget() -> None:
    found = structures(tiny_anatomy("llama"))
    bunches = make_bunches(found, some_scores(found), 7)
    start, pools = budgets(bunches, 0.7, "sigmap")
    for pool in pools:
        kept = pool.project(start) @ bunches.sizes[pool.part]
        assert kept <= 0.7 * bunches.sizes[pool.part].sum() + 1e-6


# Trials ---------------------------------------------------------------------------------------------------------------


def test_a_trial_gives_the_loss_of_every_masked_model() -> None:
    anatomy, windows, removed = tiny_anatomy("llama"), tiny_windows(count=4), [Block(1, A)]
    found = {block: each for block, each in structures(anatomy).items() if block not in removed}
    sizes = [each.groups for each in found.values()]
    drawn = torch.rand(2, sum(sizes), generator=torch.Generator().manual_seed(0)) < 0.7
    with group_trial(anatomy, removed, found, Feed(windows, 4, 3, 0)) as trial:
        losses = trial(0, drawn)
    for loss, mask in zip(losses, drawn, strict=True):
        masks = dict(zip(found, mask.float().split(sizes), strict=True))
        with bypassed(anatomy, removed), masked(anatomy, masks):
            assert mean_nll(anatomy, windows, 3) == loss.item()


def test_a_trial_of_blocks_gives_the_loss_without_them() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows(count=4)
    units = [(block,) for block in anatomy.blocks()]
    drawn = torch.rand(2, len(units), generator=torch.Generator().manual_seed(0)) < 0.7
    with unit_trial(anatomy, [], units, Feed(windows, 4, 4, 0)) as trial:
        losses = trial(0, drawn)
    for loss, mask in zip(losses, drawn, strict=True):
        with bypassed(anatomy, [block for (block,), stays in zip(units, mask, strict=True) if not stays]):
            assert mean_nll(anatomy, windows, 4) == loss.item()


def test_every_window_is_fed_once_an_epoch_in_another_order() -> None:
    feed = Feed(tiny_windows(count=10), 2, 2, 7)
    epochs = [torch.cat([feed.of(step).ids for step in range(start, start + 5)]) for start in (0, 5)]
    assert not torch.equal(*epochs)
    assert [sorted(epoch.tolist()) for epoch in epochs] == [sorted(feed.windows.ids.tolist())] * 2


# The job --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", WIDTH_METHODS)
def test_a_method_gives_widths_of_the_ratio_and_leaves_the_model_alone(method: str) -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    with torch.no_grad():
        before = anatomy.model(windows.ids).logits
    heard: list[float] = []
    found = thin(anatomy, windows, [], 0.2, method, options=QUICK[method], progress=lambda part, _: heard.append(part))
    again = thin(anatomy, windows, [], 0.2, method, options=QUICK[method])
    assert 0.2 <= reached(anatomy, found.widths) < 0.2 + 96 / anatomy.parameters()
    assert (found.widths, found.history) == (again.widths, again.history)
    assert found.removed == ()
    assert heard == sorted(heard)
    assert heard[-1] == 1
    with torch.no_grad():
        assert torch.equal(anatomy.model(windows.ids).logits, before)
    assert all(p.grad is None and p.requires_grad for p in anatomy.model.parameters())


@pytest.mark.parametrize("method", WIDTH_METHODS)
def test_blocks_first_then_width(method: str) -> None:
    anatomy, removed = tiny_anatomy("llama"), [Block(1, M), Block(2, A)]
    found = thin(anatomy, tiny_windows(), removed, 0.3, method, options=QUICK[method])
    assert found.removed == tuple(removed)
    assert not set(removed) & set(found.widths)
    assert 0.3 <= reached(anatomy, found.widths, removed) < 0.3 + 96 / anatomy.parameters()


@pytest.mark.parametrize("granularity", ["heads", "channels"])
@pytest.mark.parametrize("method", WIDTH_METHODS)
def test_one_kind_alone(method: str, granularity: str) -> None:
    options = QUICK[method] | {"granularity": granularity}
    found = thin(tiny_anatomy("llama"), tiny_windows(), [], 0.1, method, options=options)
    assert {block.kind for block in found.widths} == {A if granularity == "heads" else M}


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_policy_gradient_removes_blocks_or_layers(granularity: str) -> None:
    anatomy, removed = tiny_anatomy("llama"), [Block(3, M)]
    options = {"steps": 6, "granularity": granularity}
    found = thin(anatomy, tiny_windows(), removed, 0.4, "policy-gradient", options=options)
    assert found.widths == {}
    assert found.removed[:1] == (Block(3, M),)
    assert share(anatomy, list(found.removed)) >= 0.4
    if granularity == "layer":
        assert all(Block(block.layer, A) in found.removed for block in found.removed[1:])


@pytest.mark.parametrize(("method", "function"), [("policy-gradient", "group_trial"), ("hybrid-grained", "estimates")])
def test_a_killed_job_goes_on_to_the_same_widths(
    method: str, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_module, "FLUSH", 2)
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    options = {"policy-gradient": {"steps": 6, "save_every": 0.0}, "hybrid-grained": {"rounds": 3}}[method]
    whole = thin(anatomy, windows, [], 0.2, method, options=options)

    def stop(part: float, _: str) -> None:
        if part > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        thin(anatomy, windows, [], 0.2, method, tmp_path, options=options, progress=stop)
    assert (tmp_path / STATE_FILE).exists()
    again = thin(anatomy, windows, [], 0.2, method, tmp_path, options=options)
    assert same(again, whole)
    lines = [json.loads(line) for line in (tmp_path / HISTORY_FILE).read_text().splitlines()]
    assert lines == again.history
    monkeypatch.setattr(width_module, function, None)  # what is finished is not begun again
    if method == "hybrid-grained":
        assert same(thin(anatomy, windows, [], 0.2, method, tmp_path, options=options), whole)


def same(one: WidthResult, other: WidthResult) -> bool:
    scores = all(torch.equal(one.scores[block], other.scores[block]) for block in one.scores)
    return scores and (one.widths, one.history) == (other.widths, other.history)


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    thin(tiny_anatomy("llama"), tiny_windows(), [], 0.2, folder=tmp_path)
    with pytest.raises(InputError, match="belongs to another search"):
        thin(tiny_anatomy("llama", seed=1), tiny_windows(), [], 0.2, folder=tmp_path)
    with pytest.raises(InputError, match=r"ratio was 0\.2, is 0\.3"):
        thin(tiny_anatomy("llama"), tiny_windows(), [], 0.3, folder=tmp_path)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("magic", {}, "is no way to choose widths"),
        ("hybrid-grained", {"granularity": "layer"}, "granularity"),
        ("hybrid-grained", {"steps": 5}, "no option"),
        ("policy-gradient", {"fusion": "fine"}, "no option"),
        ("policy-gradient", {"multiple": 0}, "multiple"),
    ],
)
def test_what_makes_no_sense_is_refused(method: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        thin(tiny_anatomy("llama"), tiny_windows(), [], 0.2, method, options=options)


def test_out_of_reach_is_said_before_anything_is_learned() -> None:
    with pytest.raises(InputError, match="smaller `ratio`"):
        thin(tiny_anatomy("llama"), tiny_windows(), [], 0.99, "policy-gradient", options={"steps": 10**9})


# Several processes ----------------------------------------------------------------------------------------------------


Plain = dict[str, tuple[dict[str, list[int]], list[float]]]


def every_method() -> Plain:
    """Widths and scores of every method, as JSON can hold them."""
    found = {
        method: thin(tiny_anatomy("llama"), tiny_windows(count=5), [], 0.2, method, options=QUICK[method])
        for method in WIDTH_METHODS
    }
    return {
        method: (
            {str(block): list(kept) for block, kept in each.widths.items()},
            [value for scores in each.scores.values() for value in scores.tolist()],
        )
        for method, each in found.items()
    }


def one_of_two(rank: int, store: str) -> Plain:
    """What one of two processes finds."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = every_method()
    distributed.destroy_process_group()
    return found


@pytest.mark.skipif(not distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_find_the_same_widths_as_one(tmp_path: Path) -> None:
    """Of policy gradient the same bits, since every loss is taken by one process; gradients are summed in parts."""
    first, second = found_by_two(__file__, tmp_path / "store")
    alone = json.loads(json.dumps(every_method()))
    assert first == second
    assert {method: widths for method, (widths, _) in first.items()} == {m: widths for m, (widths, _) in alone.items()}
    assert first["policy-gradient"] == alone["policy-gradient"]
    assert first["hybrid-grained"][1] == pytest.approx(alone["hybrid-grained"][1], rel=1e-3, abs=1e-5)
