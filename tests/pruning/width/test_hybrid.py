"""Hybrid-grained importance: the reconstructed formulas against a plain loop, and what they must say of dead groups."""

import pytest
import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import batch_nll, mean_nll
from remodeler.model.minibatches import to_batch
from remodeler.model.widths import masked, narrowed, structures
from remodeler.pruning.width.hybrid import Estimates, Hybrid, estimates, fuse_estimates
from remodeler.pruning.width.width import thin
from remodeler.runs.units import Block
from tiny import tiny_anatomy, tiny_windows

A, M = "attention", "mlp"
CPU = torch.device("cpu")
COUNT = 3
"""Windows."""


def gradients(anatomy: Anatomy) -> list[dict[str, Tensor]]:
    """Of every window's mean loss, by parameter."""
    found = []
    for number in range(COUNT):
        batch = to_batch(tiny_windows(count=COUNT)[number : number + 1], CPU)
        anatomy.model.zero_grad()
        (batch_nll(anatomy, batch) / len(batch.places)).backward()
        found.append({name: p.grad.clone() for name, p in anatomy.model.named_parameters() if p.grad is not None})
    anatomy.model.zero_grad()
    return found


def rows_of(anatomy: Anatomy, block: Block, group: int) -> list[tuple[str, tuple[slice, slice]]]:
    """Where a group of the tiny Llama lies, by its shapes: two KV heads of size 8, each with two query heads."""
    layer, every = f"model.layers.{block.layer}.", slice(None)
    if block.kind == M:
        row = slice(group, group + 1)
        return [
            (layer + "mlp.gate_proj.weight", (row, every)),
            (layer + "mlp.up_proj.weight", (row, every)),
            (layer + "mlp.down_proj.weight", (every, row)),
        ]
    query, shared = slice(16 * group, 16 * group + 16), slice(8 * group, 8 * group + 8)
    return [
        (layer + "self_attn.q_proj.weight", (query, every)),
        (layer + "self_attn.k_proj.weight", (shared, every)),
        (layer + "self_attn.v_proj.weight", (shared, every)),
        (layer + "self_attn.o_proj.weight", (every, query)),
    ]


@pytest.mark.parametrize("curvature", ["token", "window"])
@pytest.mark.parametrize("place", [(Block(1, A), 1), (Block(2, M), 5)], ids=["head", "channel"])
def test_the_estimates_are_those_of_a_plain_loop(place: tuple[Block, int], curvature: str) -> None:
    (block, group), anatomy = place, tiny_anatomy("llama")
    slopes, weights = gradients(anatomy), dict(anatomy.model.named_parameters())
    scale = 11 if curvature == "token" else 1  # scored tokens of a window
    changes = []
    for name, part in rows_of(anatomy, block, group):
        w, g = weights[name].detach()[part], torch.stack([each[name][part] for each in slopes])
        changes.append((g.mean(0) * w - 0.5 * scale * (g**2).mean(0) * w**2).flatten())
    change = torch.cat(changes)
    found = estimates(anatomy, tiny_windows(count=COUNT), [], structures(anatomy), Hybrid(curvature=curvature))  # type: ignore[arg-type]
    torch.testing.assert_close(found.fine[block][group], change.abs().mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.coarse[block][group], change.mean().abs(), rtol=1e-3, atol=1e-9)
    assert found.loss == pytest.approx(mean_nll(anatomy, tiny_windows(count=COUNT)), rel=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "phi3"])
def test_gradient_times_weight_of_the_output_columns_is_the_slope_of_the_mask(name: str) -> None:
    """Whatever the layout of the family: both say how the loss changes as the group is turned down."""
    anatomy = tiny_anatomy(name)
    batch, found = to_batch(tiny_windows(), CPU), structures(anatomy)
    masks = {block: torch.ones(each.groups, requires_grad=True) for block, each in found.items()}
    with masked(anatomy, masks):
        batch_nll(anatomy, batch).backward()
    for block, structure in found.items():
        weight = anatomy.branches[block].site.layer.get_parameter(structure.cuts[-1].path)
        assert weight.grad is not None
        product = structure.cuts[-1].grouped(weight.detach() * weight.grad, structure.groups).flatten(1).sum(1)
        torch.testing.assert_close(product, masks[block].grad, rtol=1e-3, atol=1e-4)


def test_the_vector_is_never_more_than_its_elements() -> None:
    anatomy = tiny_anatomy("llama")
    found = estimates(anatomy, tiny_windows(), [], structures(anatomy), Hybrid())
    for block, fine in found.fine.items():
        assert (found.coarse[block] <= fine * (1 + 1e-5)).all()
        assert (found.coarse[block] < fine).any()


def test_parameters_keep_their_gradients_and_flags() -> None:
    anatomy = tiny_anatomy("llama")
    first, second, *_ = anatomy.model.parameters()
    first.requires_grad_(False)
    second.grad = torch.full_like(second, 3.0)
    estimates(anatomy, tiny_windows(), [], structures(anatomy), Hybrid())
    assert [p.requires_grad for p in anatomy.model.parameters()][:2] == [False, True]
    assert (second.grad == 3).all()
    assert all(p.grad is None for p in anatomy.model.parameters() if p is not second)


FINE = {Block(0, A): torch.tensor([1.0, 2.0]), Block(0, M): torch.tensor([5.0, 0.5, 3.0])}
COARSE = {Block(0, A): torch.tensor([0.4, 0.1]), Block(0, M): torch.tensor([0.9, 0.2, 0.3])}
FOUND = Estimates(FINE, COARSE, 1.0)


def scores(hybrid: Hybrid) -> list[float]:
    return [value for each in fuse_estimates(FOUND, hybrid).values() for value in each.tolist()]


def standard(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return [(value - mean) / spread for value in values]


def test_the_attention_weighs_each_group_between_mean_and_maximum() -> None:
    fine, coarse = standard([1.0, 2.0, 5.0, 0.5, 3.0]), standard([0.4, 0.1, 0.9, 0.2, 0.3])
    pairs = list(zip(fine, coarse, strict=True))
    assert scores(Hybrid(sharpness=0)) == pytest.approx([(f + c) / 2 for f, c in pairs])
    assert scores(Hybrid(sharpness=1e4)) == pytest.approx([max(pair) for pair in pairs])
    shares = [torch.softmax(torch.tensor(pair).double(), 0).tolist() for pair in pairs]
    wanted = [a * f + b * c for (a, b), (f, c) in zip(shares, pairs, strict=True)]
    assert scores(Hybrid()) == pytest.approx(wanted)


def test_the_halves_are_the_estimates_themselves() -> None:
    assert fuse_estimates(FOUND, Hybrid(fusion="fine")) == FINE
    assert fuse_estimates(FOUND, Hybrid(fusion="coarse")) == COARSE


def test_scores_are_standard_over_the_groups_that_were_asked_for() -> None:
    of_heads = fuse_estimates(FOUND, Hybrid(over="kind", sharpness=0))[Block(0, A)]
    assert of_heads.tolist() == pytest.approx([0.0, 0.0])  # two heads, and the estimates disagree
    assert (
        fuse_estimates(FOUND, Hybrid(over="kind")).keys()
        == fuse_estimates(FOUND, Hybrid(over="layer")).keys()
        == FINE.keys()
    )


def test_dead_channels_and_heads_go_first_and_cost_nothing() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    dead = {Block(2, M): [3, 4, 40], Block(0, A): [1]}
    with torch.no_grad():
        for block, groups in dead.items():
            for group in groups:
                name, part = rows_of(anatomy, block, group)[-1]
                anatomy.model.get_parameter(name)[part] = 0
    before, found = mean_nll(anatomy, windows), structures(anatomy)
    gone = sum(found[block].parameters * len(groups) for block, groups in dead.items())
    result = thin(anatomy, windows, [], (gone - 0.5) / anatomy.parameters())
    lost = {block: sorted(set(range(found[block].groups)) - set(kept)) for block, kept in result.widths.items()}
    assert lost == dead
    with narrowed(anatomy, result.widths):
        assert mean_nll(anatomy, windows) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("options", [{"fusion": "both"}, {"over": "model"}, {"curvature": "none"}, {"rounds": 0}])
def test_settings_that_are_not_known_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError):
        Hybrid(**options)  # type: ignore[arg-type]
