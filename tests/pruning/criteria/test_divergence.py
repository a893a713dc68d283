"""The change of the final logits equals what full logits give, window by window, and never needs them."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div

from remodeler.data.windows import IGNORED, Windows
from remodeler.model import logprobs
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.minibatches import to_batch
from remodeler.pruning.criteria.divergence import angle, js, js_released, kl
from remodeler.pruning.methods import CRITERIA
from remodeler.runs.units import Block
from tiny import tiny_anatomy, tiny_windows

A, M = "attention", "mlp"
NAMES = ("js", "js-released", "kl", "angular", "norm")
REMOVED = [Block(1, M)]
UNITS = [(Block(1, A),), (Block(2, M),), (Block(2, A), Block(2, M))]


def full_logits(anatomy: Anatomy, windows: Windows) -> Tensor:
    with torch.no_grad():
        logits: Tensor = anatomy.model(**to_batch(windows, torch.device("cpu")).inputs).logits
        return logits.double()


def distance(name: str, p: Tensor, q: Tensor) -> Tensor:
    """FinerCut's four, and the textbook's fifth, of logits [positions, vocabulary]: a mean, as torch has them."""
    logs, other = p.log_softmax(-1), q.log_softmax(-1)
    mean = 0.5 * (logs.exp() + other.exp())
    divergence: Callable[[Tensor, Tensor], Tensor] = partial(kl_div, reduction="batchmean")  # of (log input, target)
    if name == "js":
        return 0.5 * (
            kl_div(mean.log(), logs, log_target=True, reduction="batchmean")
            + kl_div(mean.log(), other, log_target=True, reduction="batchmean")
        )
    if name == "js-released":
        return 0.5 * (divergence(logs, mean) + divergence(other, mean))
    if name == "kl":
        return kl_div(other, logs, log_target=True, reduction="batchmean")
    return cosine_similarity(p, q, dim=-1).clamp(0, 1).acos().mean()


def naive(name: str, anatomy: Anatomy, windows: Windows, counted: Tensor, unit: tuple[Block, ...]) -> float:
    """All logits of both models at once."""
    intact = full_logits(anatomy, windows)
    with bypassed(anatomy, [*REMOVED, *unit]):
        pruned = full_logits(anatomy, windows)
    if name == "norm":
        change = (intact - pruned) * counted[..., None]
        return float(torch.linalg.matrix_norm(change).mean())
    return float(distance(name, intact[counted], pruned[counted]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["llama", "gpt2", "phi", "gemma2", "bert", "t5"])
def test_equals_what_full_logits_give(name: str, model: str) -> None:
    anatomy = tiny_anatomy(model)
    windows = tiny_windows(anatomy.family.task, count=5)
    counted = windows.targets != IGNORED if model in ("bert", "t5") else torch.ones_like(windows.ids, dtype=torch.bool)
    wanted = [naive(name, anatomy, windows, counted, unit) for unit in UNITS]
    assert CRITERIA[name](anatomy, windows, REMOVED, UNITS, size=2) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_count(name: str) -> None:
    anatomy, plain = tiny_anatomy("llama"), tiny_windows(count=3)
    zeros = torch.zeros(3, 4, dtype=torch.long)
    padded = Windows(
        torch.cat([plain.ids, zeros], 1),
        torch.cat([plain.targets, zeros + IGNORED], 1),
        torch.cat([torch.ones_like(plain.ids), zeros], 1),
    )
    wanted = CRITERIA[name](anatomy, plain, REMOVED, UNITS)
    assert CRITERIA[name](anatomy, padded, REMOVED, UNITS) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_logits_exist_a_chunk_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    wanted = CRITERIA[name](anatomy, windows, REMOVED, UNITS)
    monkeypatch.setattr(logprobs, "CHUNK_POSITIONS", 7)
    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cpu", 1)
    most: list[int] = []
    hook = anatomy.model.lm_head.register_forward_hook(lambda _, args, out: most.append(out.shape[1]))
    assert CRITERIA[name](anatomy, windows, REMOVED, UNITS) == pytest.approx(wanted, rel=1e-5)
    hook.remove()
    assert max(most) == 7


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_is_the_intact_model(name: str) -> None:
    """Not the one without what is removed already: a candidate that adds nothing still costs what is gone."""
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    torch.nn.init.zeros_(anatomy.model.model.layers[2].mlp.down_proj.weight)
    free = [(Block(2, M),)]
    assert CRITERIA[name](anatomy, windows, [], free)[0] == pytest.approx(0, abs=1e-6)
    assert CRITERIA[name](anatomy, windows, REMOVED, free)[0] > 1e-3


def test_jensen_shannon_is_symmetric_and_log_2_at_most() -> None:
    p, q = torch.randn(6, 20), torch.randn(6, 20)
    assert torch.allclose(js(p, q), js(q, p))
    assert js(p, p).abs().max() < 1e-7
    far = torch.tensor([[80.0, 0.0, 0.0]]), torch.tensor([[0.0, 80.0, 0.0]])
    assert js(*far).item() == pytest.approx(math.log(2), rel=1e-6)


def test_the_released_form_is_another_number_and_without_a_bound() -> None:
    """The control: mixing the two up would be seen."""
    p, q = torch.tensor([[12.0, 0.0]]), torch.tensor([[0.0, 12.0]])
    assert js_released(p, q).item() > 3 * js(p, q).item()
    assert js(p, q).item() < math.log(2)


def test_kl_looks_from_the_intact_model() -> None:
    p, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    a, b = p.softmax(1), q.softmax(1)
    assert kl(p, q).item() == pytest.approx((a * (a / b).log()).sum().item())
    assert kl(p, q).item() != pytest.approx(kl(q, p).item())


def test_angles_are_right_where_the_cosine_rounds_to_one_and_stop_at_a_right_angle() -> None:
    e = 1e-4
    near = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(e), math.sin(e)]])
    assert angle(*near).item() == pytest.approx(e, rel=1e-4)
    assert cosine_similarity(*near).acos().item() != pytest.approx(e, rel=1e-2)
    assert angle(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.1]])).item() == pytest.approx(math.pi / 2)
