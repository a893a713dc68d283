"""Gradients of blocks and weights equal autograd's on the whole model, and the model is left as it was."""

import copy
import inspect
import json
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import remodeler
from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.data.windows import IGNORED, Windows
from remodeler.evaluation.metrics import model_windows
from remodeler.model import logprobs
from remodeler.model.blocks import Anatomy, bypassed, swapped
from remodeler.model.logprobs import mean_nll, window_nll
from remodeler.model.minibatches import to_batch
from remodeler.pruning.criteria.gradients import (
    gradient,
    magnitude,
    parameters_of,
    second_order,
    taylor,
    window_gradients,
)
from remodeler.pruning.criteria.sweep import sweep
from remodeler.runs.units import Block, Unit
from tiny import tiny_anatomy, tiny_checkpoint, tiny_windows

A, M = "attention", "mlp"
CPU = torch.device("cpu")
# Where a block's output joins the stream, where that isn't the last of its modules as it stands: the module, and the
# positional argument that holds the stream, if the sum is inside.
JOINS: dict[str, dict[str, tuple[str, int | None]]] = {
    "llama": {A: ("self_attn", None), M: ("mlp", None)},
    "granite": {A: ("self_attn", None), M: ("mlp", None)},
    "gemma2": {A: ("post_attention_layernorm", None), M: ("post_feedforward_layernorm", None)},
    "olmo2": {A: ("post_attention_layernorm", None), M: ("post_feedforward_layernorm", None)},
    "mixtral": {A: ("self_attn", None), M: ("mlp", None)},
    "gpt2": {A: ("attn", None), M: ("mlp", None)},
    "opt": {A: ("self_attn", None), M: ("fc2", None)},
    "phi": {A: ("self_attn", None), M: ("mlp", None)},
    "falcon": {A: ("self_attention", None), M: ("mlp", None)},
    "bloom": {A: ("self_attention", 1), M: ("mlp", 1)},
    "mpt": {A: ("attn", None), M: ("ffn", 1)},
    "bert": {A: ("attention", 0), M: ("output", 1)},
    "t5": {A: ("layer.0", 0), "cross": ("layer.1", 0), M: ("layer.2", 0)},
}
ENCODER = {A: ("layer.0", 0), M: ("layer.1", 0)}


def units(anatomy: Anatomy, removed: list[Block] | None = None) -> list[Unit]:
    return [(block,) for block in anatomy.blocks() if block not in (removed or [])]


def full_loss(anatomy: Anatomy, windows: Windows) -> Tensor:
    """Mean over the tokens of the cross-entropy of the model's own logits."""
    logits = anatomy.model(**to_batch(windows, CPU).inputs).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), windows.targets.flatten(), ignore_index=IGNORED)


def scaled(stack: ExitStack, anatomy: Anatomy, name: str, block: Block, shape: tuple[int, ...] = ()) -> Tensor:
    """Factors, 1, on what a block adds to the stream: one, or one for every position."""
    site = anatomy.branches[block].site
    inner = ENCODER if site.stack.layers == "encoder.block" else JOINS[name]
    path, stream = inner[block.kind]
    factor = torch.ones(shape, requires_grad=True)

    def hook(_: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
        output = outputs[0] if isinstance(outputs, tuple) else outputs
        start = 0 if stream is None else args[stream]
        made = start + factor * (output - start)
        return (made, *outputs[1:]) if isinstance(outputs, tuple) else made

    stack.callback(site.layer.get_submodule(path).register_forward_hook(hook).remove)
    return factor


@pytest.mark.parametrize("name", JOINS)
def test_gradient_is_minus_the_derivative_by_a_factor_on_the_branch(name: str) -> None:
    anatomy = tiny_anatomy(name)
    windows = tiny_windows(anatomy.family.task)
    removed = [Block(1, M)]
    found = gradient(anatomy, windows, removed, units(anatomy, removed), size=3)
    with ExitStack() as stack:
        stack.enter_context(bypassed(anatomy, removed))
        factors = [scaled(stack, anatomy, name, *unit) for unit in units(anatomy, removed)]
        wanted = torch.autograd.grad(full_loss(anatomy, windows), factors)
    assert found == pytest.approx([-each.item() for each in wanted], rel=1e-3, abs=1e-5)
    assert any(abs(value) > 1e-2 for value in found)


def test_what_the_first_order_misses_shrinks_with_the_square_of_the_step() -> None:
    """The estimate is of the first order: with a branch scaled by 1 - e, the rest is of the order of e squared."""
    anatomy, windows, block = tiny_anatomy("llama"), tiny_windows(), Block(1, A)
    estimate = gradient(anatomy, windows, [], [(block,)])[0]
    weight = anatomy.model.model.layers[1].self_attn.o_proj.weight
    before, original = mean_nll(anatomy, windows), weight.detach().clone()
    rests = []
    for e in (0.2, 0.1):
        with torch.no_grad():
            weight.copy_(original * (1 - e))
        rests.append(mean_nll(anatomy, windows) - before - e * estimate)
    assert rests[0] / rests[1] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi", "bloom"])
def test_second_order_adds_half_the_squares_of_the_derivatives_by_positions(name: str) -> None:
    """Of a layer, the squares of what its blocks give together."""
    anatomy, windows = tiny_anatomy(name), tiny_windows()
    shape = (*windows.ids.shape, 1)
    with ExitStack() as stack:
        pair = [scaled(stack, anatomy, name, Block(2, kind), shape) for kind in (A, M)]  # type: ignore[arg-type]
        attention, mlp = torch.autograd.grad(full_loss(anatomy, windows) * windows.tokens, pair)
    derivatives = [attention.double(), mlp.double(), (attention + mlp).double()]
    wanted = [(each.square().sum() / 2 - each.sum()).item() / windows.tokens for each in derivatives]
    asked: list[Unit] = [(Block(2, A),), (Block(2, M),), (Block(2, A), Block(2, M))]
    assert second_order(anatomy, windows, [], asked, size=3) == pytest.approx(wanted, rel=1e-3)


def test_in_a_trained_model_the_second_order_ranks_blocks_and_the_first_does_not() -> None:
    """On the embedded model, against the exact rise of the loss."""
    checkpoint = load(str(Path(remodeler.__file__).parent / "demo_model"), dtype="float32", device="cpu")
    texts = [textwrap.__doc__, *(inspect.getdoc(each) for each in vars(textwrap.TextWrapper).values()), json.__doc__]
    windows = model_windows(checkpoint, [text for text in texts if text], 64)[:12]
    anatomy, asked = checkpoint.anatomy, units(checkpoint.anatomy)
    exact = ranks(sweep(anatomy, windows, [], asked))
    first, second = (ranks(criterion(anatomy, windows, [], asked)) for criterion in (gradient, second_order))
    assert torch.corrcoef(torch.stack([second, exact]))[0, 1] > 0.85
    assert torch.corrcoef(torch.stack([first, exact]))[0, 1] < 0.7


def ranks(values: list[float]) -> Tensor:
    return torch.tensor(values).argsort().argsort().double()


def test_a_block_that_adds_nothing_costs_nothing_and_a_unit_costs_what_its_blocks_do() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    torch.nn.init.zeros_(anatomy.model.model.layers[2].mlp.down_proj.weight)
    asked: list[Unit] = [(Block(1, A),), (Block(1, M),), (Block(1, A), Block(1, M)), (Block(2, M),)]
    one, other, both, nothing = gradient(anatomy, windows, [], asked)
    assert both == pytest.approx(one + other)
    assert nothing == second_order(anatomy, windows, [], asked)[3] == 0


def test_an_encoder_that_nobody_reads_costs_nothing() -> None:
    anatomy, windows = tiny_anatomy("t5"), tiny_windows("seq2seq")
    unread = [block for block in anatomy.blocks() if block.kind == "cross"]
    found = gradient(anatomy, windows, unread, [(Block(1, A),), (Block(2, M),), (Block(5, M),)])
    assert found[:2] == [0, 0]
    assert found[2] != 0


@pytest.mark.parametrize("name", ["llama", "opt", "bert"])
def test_windows_are_scored_on_their_own(name: str) -> None:
    """Row by row what each window alone gives, at any batch size."""
    anatomy = tiny_anatomy(name)
    windows, asked = tiny_windows(anatomy.family.task, count=5), units(anatomy)
    table = window_gradients(anatomy, windows, [], asked, size=2)
    alone = [window_gradients(anatomy, windows[i : i + 1], [], asked) for i in range(5)]
    assert table.dtype == torch.float64
    assert torch.allclose(table, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_padding_does_not_count() -> None:
    anatomy, plain = tiny_anatomy("llama"), tiny_windows(count=2)
    zeros = torch.zeros(2, 3, dtype=torch.long)
    padded = Windows(
        torch.cat([plain.ids, zeros], 1),
        torch.cat([plain.targets, zeros + IGNORED], 1),
        torch.cat([torch.ones_like(plain.ids), zeros], 1),
    )
    wanted = gradient(anatomy, plain, [], units(anatomy))
    assert gradient(anatomy, padded, [], units(anatomy)) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_chunks_of_the_head_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    whole = gradient(anatomy, windows, [], units(anatomy))
    monkeypatch.setattr(logprobs, "CHUNK_POSITIONS", 5)
    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cpu", 1)
    most = []
    hook = anatomy.model.lm_head.register_forward_hook(lambda _, args, out: most.append(out.shape[1]))
    assert gradient(anatomy, windows, [], units(anatomy)) == pytest.approx(whole, rel=1e-4, abs=1e-6)
    hook.remove()
    assert max(most) == 5


def widths(seen: list[int]) -> torch.autograd.graph.saved_tensors_hooks:
    """Note the last dimension of everything that autograd keeps."""

    def note(tensor: Tensor) -> Tensor:
        seen.append(tensor.shape[-1] if tensor.dim() else 0)
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)


def test_what_is_inside_the_layers_is_not_kept_but_made_again() -> None:
    anatomy, windows = tiny_anatomy("llama", intermediate_size=256), tiny_windows()
    plain, ours, ran = list[int](), list[int](), list[int]()
    with widths(plain):
        full_loss(anatomy, windows)
    hook = anatomy.model.model.layers[1].mlp.gate_proj.register_forward_hook(lambda *_: ran.append(1))
    with widths(ours):
        gradient(anatomy, windows, [], units(anatomy), size=len(windows))
    hook.remove()
    assert len(ran) == 2
    assert 256 in plain
    assert 256 not in ours


@pytest.mark.parametrize("name", ["llama", "phi"])
def test_a_packed_model_with_orphans_gives_the_sources_numbers(name: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(name)
    removed = [Block(0, A), Block(2, A), Block(1, M)]
    save_pruned(checkpoint, removed, tmp_path / "packed", "packed")
    packed, windows = load(tmp_path / "packed", device="cpu").anatomy, tiny_windows()
    wanted = gradient(checkpoint.anatomy, windows, removed, units(packed))
    assert gradient(packed, windows, [], units(packed)) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


# Weights --------------------------------------------------------------------------------------------------------------


def naive_taylor(anatomy: Anatomy, windows: Windows, blocks: tuple[Block, ...]) -> float:
    """Gradient of the full loss by autograd, all of it kept; absolute values last."""
    own = parameters_of(anatomy, [], blocks)
    gradients = torch.autograd.grad(full_loss(anatomy, windows), own)
    return sum((p * g).abs().sum().item() for p, g in zip(own, gradients, strict=True))


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi", "bert", "bloom", "mixtral", "t5"])
@pytest.mark.parametrize("size", [None, 2, 3])
def test_taylor_is_the_sum_of_absolute_products_of_weights_and_gradients(name: str, size: int | None) -> None:
    anatomy = tiny_anatomy(name)
    windows = tiny_windows(anatomy.family.task)
    candidates = [*units(anatomy)[::3], (Block(2, A), Block(2, M))]
    wanted = [naive_taylor(anatomy, windows, unit) for unit in candidates]
    assert taylor(anatomy, windows, [], candidates, size=size) == pytest.approx(wanted, rel=1e-4)


def test_absolute_values_are_taken_of_the_sum_over_the_mini_batches() -> None:
    """The control: taken in each mini-batch, they add up to more."""
    anatomy, windows, unit = tiny_anatomy("llama"), tiny_windows(), (Block(1, M),)
    whole = taylor(anatomy, windows, [], [unit], size=1)[0]
    parts = [taylor(anatomy, windows[i : i + 1], [], [unit])[0] / len(windows) for i in range(len(windows))]
    assert whole < 0.9 * sum(parts)


def test_an_expert_that_the_last_mini_batch_does_not_reach_keeps_what_it_had() -> None:
    class Routed(nn.Module):
        """An MLP with a spare, which only windows that start with an even token go through."""

        def __init__(self, mlp: nn.Module) -> None:
            super().__init__()
            self.mlp, self.spare, self.calls = mlp, copy.deepcopy(mlp), 0

        def forward(self, states: Tensor) -> Tensor:
            spared = self.spare(states[:2]) if len(states) > 1 else states[:0]
            return self.mlp(states) + nn.functional.pad(spared, (0, 0, 0, 0, 0, len(states) - len(spared)))

    anatomy, windows, unit = tiny_anatomy("llama"), tiny_windows(count=3), (Block(1, M),)
    layer = anatomy.branches[unit[0]].site.layer
    with swapped(layer, "mlp", Routed(layer.mlp)):
        first, rest = windows[:2], windows[2:]
        own = parameters_of(anatomy, [], unit)
        losses = [full_loss(anatomy, part) * part.tokens / windows.tokens for part in (first, rest)]
        gradients = [torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True) for loss in losses]
        wanted = sum((p * (a + b)).abs().sum().item() for p, a, b in zip(own, *gradients, strict=True))
        assert taylor(anatomy, windows, [], [unit], size=2)[0] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "phi"])
def test_magnitude_is_the_sum_of_absolute_weights_that_go(name: str) -> None:
    """A norm that two blocks share goes with the last of them."""
    anatomy = tiny_anatomy(name)
    layer = anatomy.branches[Block(1, A)].site.layer
    of = {kind: {p: None for p in anatomy.branches[Block(1, kind)].parameters()} for kind in (A, M)}
    spare = [p for p in layer.parameters() if p not in of[A] and p not in of[M]]
    one, both = magnitude(anatomy, tiny_windows(), [], [(Block(1, A),), (Block(1, A), Block(1, M))])
    assert one == pytest.approx(sum(p.abs().sum().item() for p in of[A]), rel=1e-5)
    assert both == pytest.approx(sum(p.abs().sum().item() for p in layer.parameters()), rel=1e-5)
    last = magnitude(anatomy, tiny_windows(), [Block(1, A)], [(Block(1, M),)])[0]
    assert last == pytest.approx(both - one, rel=1e-5)
    assert bool(spare) == (name == "phi")


# The model ------------------------------------------------------------------------------------------------------------


@contextmanager
def unusual(anatomy: Anatomy) -> Iterator[dict[str, Any]]:
    """A model that somebody is training: a frozen weight, a gradient, dropout on; yields what is to be found again."""
    model = anatomy.model.train()
    parameters = dict(model.named_parameters())
    parameters["model.layers.0.mlp.up_proj.weight"].requires_grad_(False)
    parameters["model.layers.1.mlp.up_proj.weight"].grad = torch.ones(48, 32)
    yield {name: (p.requires_grad, p.grad, p.detach().clone()) for name, p in parameters.items()}


@pytest.mark.parametrize("criterion", [gradient, taylor])
@pytest.mark.parametrize("stop", [False, True])
def test_a_model_in_training_is_left_as_it_was_and_scored_without_dropout(criterion: Any, stop: bool) -> None:
    anatomy, windows = tiny_anatomy("llama", attention_dropout=0.5), tiny_windows()
    wanted = criterion(anatomy, windows, [], units(anatomy))

    def interrupt(share: float, words: str) -> None:
        if stop:
            raise KeyboardInterrupt

    with unusual(anatomy) as before:
        try:
            assert criterion(anatomy, windows, [], units(anatomy), progress=interrupt) == wanted
        except KeyboardInterrupt:
            assert stop
        assert all(module.training for module in anatomy.model.modules())
        after = dict(anatomy.model.named_parameters())
        assert set(after) == set(before)
        for name, (needed, found, value) in before.items():
            assert after[name].requires_grad is needed
            assert after[name].grad is found
            assert torch.equal(after[name], value)


def test_a_forward_of_ones_own_stays() -> None:
    """As accelerate puts it on modules whose weights it moves."""
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    layer = anatomy.model.model.layers[2]
    wanted, ran = gradient(anatomy, windows, [], units(anatomy)), list[int]()
    plain = layer.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        ran.append(1)
        return plain(*args, **kwargs)

    layer.forward = counted
    assert gradient(anatomy, windows, [], units(anatomy), size=len(windows)) == wanted
    assert layer.forward is counted
    assert len(ran) == 2


def test_bfloat16_is_near_float32() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    wanted = torch.tensor(gradient(anatomy, windows, [], units(anatomy)))
    anatomy.model.to(torch.bfloat16)
    found = torch.tensor(gradient(anatomy, windows, [], units(anatomy)))
    assert torch.corrcoef(torch.stack([found, wanted]))[0, 1] > 0.98


def test_the_loss_that_is_differentiated_is_the_search_s() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    with torch.no_grad():
        full = full_loss(anatomy, windows).item() * windows.tokens
        assert window_nll(anatomy, to_batch(windows, CPU)).sum().item() == pytest.approx(full, rel=1e-6)
