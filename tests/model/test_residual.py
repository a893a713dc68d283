"""What a layer adds to the residual stream, on layers that are made for it."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from remodeler.model.layer_calls import units_in
from remodeler.model.residual import Found
from remodeler.model.watching import Watch

WIDTH = 8


class Layer(nn.Module):
    """A norm, something that mixes tokens, an MLP of two projections, and a sum as the test has it."""

    def __init__(self, total: Callable[["Layer", Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixes, self.up, self.down = Mean(), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.gate, self.total = nn.Linear(WIDTH, WIDTH), total

    def forward(self, states: Tensor) -> Tensor:
        return self.total(self, states)

    def mlp(self, states: Tensor) -> Tensor:
        out: Tensor = self.down(torch.relu(self.up(states)))
        return out


class Mean(nn.Module):
    """The mean of all tokens so far, projected: tokens are mixed without a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        counts = torch.arange(1, states.shape[1] + 1)[:, None]
        made: Tensor = self.out(states.cumsum(1) / counts)
        return made


def found(total: Callable[[Layer, Tensor], Tensor]) -> Found:
    layer = Layer(total)
    watch = Watch(layer)
    for path, module in units_in(layer):
        module.register_forward_hook(watch.note(path), with_kwargs=True)
    layer.register_forward_pre_hook(watch.before, with_kwargs=True)
    layer.register_forward_hook(watch.after)
    layer(torch.zeros(1, 6, WIDTH))
    assert watch.found is not None
    return watch.found


def told(what: Found) -> dict[str, tuple[list[str], tuple[str, ...], tuple[str, ...]]]:
    """By kind: modules, norms, output projections."""
    return {term.kind: ([unit.path for unit in term.chain], term.norms, term.out) for term in what.terms}


MIXER = (["mixes"], ("norm",), ("mixes.out",))
MLP = (["up", "down"], ("after",), ("down",))


def test_branches_that_follow_each_other() -> None:
    def total(layer: Layer, x: Tensor) -> Tensor:
        x = x + layer.mixes(layer.norm(x))
        return x + layer.mlp(layer.after(x))

    what = found(total)
    assert told(what) == {"mixer": MIXER, "mlp": MLP}
    assert (what.rest, what.parallel) == ((), False)


def test_branches_that_are_added_up_before_they_join_the_stream() -> None:
    what = found(lambda layer, x: (layer.mixes(layer.norm(x)) + 2 * layer.mlp(layer.after(x))) + x)
    assert told(what) == {"mixer": MIXER, "mlp": MLP}
    assert (what.rest, what.parallel) == ((), True)


def test_a_norm_behind_a_branch_goes_with_it_and_one_on_the_stream_stays() -> None:
    behind = found(lambda layer, x: x + layer.norm(layer.mixes(x)))
    assert told(behind) == {"mixer": MIXER}
    assert behind.rest == ()
    on_it = found(lambda layer, x: layer.norm(x + layer.mixes(x)))
    assert told(on_it) == {"mixer": (["mixes"], (), ("mixes.out",))}
    assert on_it.rest == ("norm",)


def test_a_scaled_stream_is_part_of_the_layer_itself() -> None:
    what = found(lambda layer, x: 0.5 * x + layer.mixes(layer.norm(x)))
    assert (told(what), what.rest) == ({"mixer": MIXER}, ("",))
    assert found(lambda layer, x: x + 0.5 * layer.mixes(layer.norm(x))).rest == ()


def test_the_factor_of_a_gate_has_no_projection_to_zero() -> None:
    """Zeros in the gate give a half, zeros in the other factor give zeros."""
    what = found(lambda layer, x: x + torch.sigmoid(layer.gate(x)) * layer.mixes(layer.norm(x)))
    assert told(what)["mixer"][2] == ("mixes.out",)


def test_weights_that_are_zeros_hide_nothing() -> None:
    def total(layer: Layer, x: Tensor) -> Tensor:
        nn.init.zeros_(layer.mixes.out.weight)
        return x + layer.mixes(layer.norm(x))

    assert told(found(total)) == {"mixer": MIXER}


@pytest.mark.parametrize(
    ("total", "why"),
    [
        (lambda layer, x: torch.tanh(x + layer.mixes(x)), r"no sum .* \(its last operator is Tanh\)"),
        (lambda layer, x: layer.mixes(layer.norm(x)), "no sum that its input is part of"),
        (lambda layer, x: x + (y := layer.mixes(x)) + layer.mlp(y), "its mixes is part of two sums"),
    ],
)
def test_layers_whose_branches_can_not_be_told(total: Callable[[Layer, Tensor], Tensor], why: str) -> None:
    assert re.search(why, found(total).problem)
