"""What every criterion keeps to, what each method protects, and that a paper's row removes in the paper's order."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.nn.functional import cosine_similarity, kl_div

from forks import found_by_two
from remodeler.checkpoint.load import load
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll
from remodeler.pruning.config import Budget
from remodeler.pruning.methods import CRITERIA, METHODS, ONE_PASS, Method
from remodeler.pruning.search.loop import Search, prune
from remodeler.runs.removals import blocks_of
from remodeler.runs.units import Block, Unit
from tiny import EVERY, tiny_anatomy, tiny_model, tiny_tokenizer, tiny_windows

A, M = "attention", "mlp"
COUNT = 5
"""Windows: the batch size below does not divide it."""
REMOVED = [Block(1, M)]
TEXT_FREE = ("random", "magnitude")
"""Criteria that read no text."""


def units(anatomy: Anatomy, removed: list[Block]) -> list[Unit]:
    """Blocks, and a layer."""
    return [*((block,) for block in anatomy.blocks() if block not in removed), (Block(2, A), Block(2, M))]


def deep(layers: int = 12, name: str = "llama") -> Anatomy:
    depth = {"gpt2": "n_layer", "t5": "num_decoder_layers"}.get(name, "num_hidden_layers")
    return tiny_anatomy(name, **{depth: layers})


# Criteria -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", [[], REMOVED], ids=["intact", "one removed"])
@pytest.mark.parametrize("name", CRITERIA)
def test_finite_numbers_an_unchanged_model_and_the_same_again(name: str, removed: list[Block]) -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows(count=COUNT)
    asked = units(anatomy, removed)
    modules = list(anatomy.model.modules())
    before = {name: value.clone() for name, value in anatomy.model.state_dict().items()}
    first = CRITERIA[name](anatomy, windows, removed, asked, size=2)
    assert len(first) == len(asked)
    assert all(isinstance(value, float) and math.isfinite(value) for value in first)
    assert CRITERIA[name](anatomy, windows, removed, asked, size=2) == first
    assert list(anatomy.model.modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in anatomy.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in anatomy.model.parameters())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in modules
    )


@pytest.mark.parametrize("name", CRITERIA)
def test_what_is_removed_counts(name: str) -> None:
    """The control of the iteration: but for what needs no text, a removal changes the others' importance."""
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    asked = [(Block(2, A),), (Block(3, M),)]
    changed = CRITERIA[name](anatomy, windows, REMOVED, asked) != CRITERIA[name](anatomy, windows, [], asked)
    assert changed == (name not in TEXT_FREE)


@pytest.mark.parametrize("name", CRITERIA)
def test_the_order_of_the_candidates_does_not_matter(name: str) -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    asked = units(anatomy, [])
    backwards = CRITERIA[name](anatomy, windows, [], asked[::-1])
    assert backwards[::-1] == CRITERIA[name](anatomy, windows, [], asked)


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in TEXT_FREE])
def test_progress_grows_to_one(name: str) -> None:
    anatomy, shares = tiny_anatomy("llama"), list[float]()
    CRITERIA[name](
        anatomy,
        tiny_windows(count=COUNT),
        [],
        units(anatomy, []),
        size=2,
        progress=lambda share, _: shares.append(share),
    )
    assert shares == sorted(set(shares))
    assert shares[-1] == 1


@pytest.mark.parametrize("name", [name for name in CRITERIA if CRITERIA[name] in ONE_PASS])
def test_one_pass_does_not_grow_with_the_candidates(name: str) -> None:
    anatomy, ran = tiny_anatomy("llama"), list[int]()
    hook = anatomy.model.model.layers[3].mlp.gate_proj.register_forward_hook(lambda *_: ran.append(1))
    counts = []
    for asked in (units(anatomy, []), units(anatomy, [])[:2]):
        ran.clear()
        CRITERIA[name](anatomy, tiny_windows(count=COUNT), [], asked, size=COUNT)
        counts.append(len(ran))
    hook.remove()
    assert counts[0] == counts[1] <= 2


@pytest.mark.parametrize("family", [name for name in EVERY if name != "llama"])
def test_every_family_is_scored_by_every_criterion(family: str) -> None:
    anatomy = tiny_anatomy(family)
    windows, asked = tiny_windows(anatomy.family.task, count=3), [(Block(2, A),), (Block(2, M),)]
    for name in ("js", "norm", "gradient", "taylor", "magnitude"):
        values = CRITERIA[name](anatomy, windows, REMOVED, asked, size=2)
        assert all(math.isfinite(value) and value for value in values), name


@pytest.mark.parametrize("name", CRITERIA)
def test_a_streamed_model_gives_the_same_bits(name: str, disk: Path) -> None:
    inside, streamed = load(str(disk), device="cpu").anatomy, load(str(disk), device="cpu", stream=True).anatomy
    windows, asked = tiny_windows(count=COUNT), units(inside, REMOVED)
    if name == "taylor":
        with pytest.raises(InputError, match="leave out `stream`"):
            CRITERIA[name](streamed, windows, REMOVED, asked)
        return
    wanted = CRITERIA[name](inside, windows, REMOVED, asked, size=2)
    assert CRITERIA[name](streamed, windows, REMOVED, asked, size=2) == wanted
    assert all(value.is_meta for value in streamed.model.model.layers.parameters())


def test_a_backward_pass_reads_each_layer_twice(disk: Path) -> None:
    anatomy = load(str(disk), device="cpu", stream=True).anatomy
    weights = anatomy.model.streamed_weights
    weights.read.clear()
    CRITERIA["gradient"](anatomy, tiny_windows(count=COUNT), [], units(anatomy, []), size=COUNT)
    assert sum(weights.read.values()) == 2 * sum(p.nbytes for p in anatomy.model.model.layers.parameters())


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's checkpoint."""
    folder = tmp_path_factory.mktemp("llama")
    model: Any = tiny_model("llama")
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def one_of_two(rank: int, store: str) -> dict[str, list[float]]:
    """What one of two processes finds, by criterion."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = by_criterion()
    distributed.destroy_process_group()
    return found


def by_criterion() -> dict[str, list[float]]:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows(count=COUNT)
    asked = units(anatomy, REMOVED)
    return {name: criterion(anatomy, windows, REMOVED, asked, size=2) for name, criterion in CRITERIA.items()}


@pytest.mark.skipif(not distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_give_one_processs_bits(tmp_path: Path) -> None:
    first, second = found_by_two(__file__, tmp_path / "store")
    assert first == second == by_criterion()


# Protection -----------------------------------------------------------------------------------------------------------


def protected(method: str, anatomy: Anatomy, gone: int = 0) -> list[int]:
    return sorted(METHODS[method].protect(anatomy, anatomy.blocks()[:gone]))


def test_finercut_keeps_the_early_layers_until_four_tenths_are_gone() -> None:
    """12 layers, 24 blocks: int(24 x 0.4 / 2) + 1 = 5 layers, until int(24 x 0.4) + 1 = 10 blocks are gone."""
    anatomy = deep()
    assert protected("finercut", anatomy) == [0, 1, 2, 3, 4]
    assert protected("finercut", anatomy, 9) == [0, 1, 2, 3, 4]
    assert protected("finercut", anatomy, 10) == []


def test_shortened_llama_keeps_four_and_two() -> None:
    assert protected("shortened-llama", deep(), 8) == [0, 1, 2, 3, 10, 11]
    assert protected("shortened-llama", deep(4)) == [0, 1, 2, 3]


def test_sleb_keeps_the_ends() -> None:
    assert protected("sleb", deep(), 8) == [0, 11]


def test_encoder_and_decoder_are_protected_each_on_its_own() -> None:
    """3 layers of encoder, numbers 0 to 2, and 6 of decoder."""
    anatomy = deep(6, "t5")
    assert protected("sleb", anatomy) == [0, 2, 3, 8]
    assert protected("shortened-llama", anatomy) == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    blocks = len(anatomy.branches)
    each = int(blocks * 0.4 / 2 / 2) + 1
    assert protected("finercut", anatomy) == [*range(min(each, 3)), *range(3, 3 + each)]
    assert protected("finercut", anatomy, int(blocks * 0.4) + 1) == []


def test_the_others_protect_nothing() -> None:
    kept = {name for name, method in METHODS.items() if method.protect(deep(4), [])}
    assert kept == {"finercut", "shortened-llama", "sleb"}


def test_every_method_says_what_it_is_and_its_criterion_has_a_name() -> None:
    for method in METHODS.values():
        assert method.summary
        assert method.criterion in CRITERIA.values()


# Orders ---------------------------------------------------------------------------------------------------------------

LAYERS = 8
Score = Callable[[Anatomy, Windows, list[Block]], float]
"""Of the model without some blocks."""


def order_of(method: Method, anatomy: Anatomy, windows: Windows, count: int) -> list[Block]:
    return blocks_of(prune(Search(anatomy, windows, Budget(remove=count), method, method.unit)))


def greedy(
    anatomy: Anatomy, windows: Windows, pool: Callable[[int], list[Unit]], count: int, score: Score
) -> list[Block]:
    """Algorithm 1: take out each, remove the lowest, begin again."""
    removed: list[Block] = []
    for step in range(count):
        left = [unit for unit in pool(step) if not set(unit) & set(removed)]
        removed += min(left, key=lambda unit: score(anatomy, windows, [*removed, *unit]))
    return removed


def loss_without(anatomy: Anatomy, windows: Windows, removed: list[Block]) -> float:
    with bypassed(anatomy, removed):
        return mean_nll(anatomy, windows)


def js_without(anatomy: Anatomy, windows: Windows, removed: list[Block]) -> float:
    """FinerCut's divergence with all logits in memory."""
    with torch.no_grad():
        p = anatomy.model(windows.ids).logits.double().log_softmax(-1).flatten(0, 1)
        with bypassed(anatomy, removed):
            q = anatomy.model(windows.ids).logits.double().log_softmax(-1).flatten(0, 1)
    middle = torch.logaddexp(p, q) - math.log(2)
    return sum(kl_div(middle, each, log_target=True, reduction="batchmean").item() for each in (p, q)) / 2


def test_finercut_removes_in_the_order_of_the_naive_loop() -> None:
    """8 layers, 16 blocks: layers 0 to 3 are kept until 7 blocks are gone."""
    anatomy, windows = deep(LAYERS), tiny_windows()

    def pool(step: int) -> list[Unit]:
        return [(block,) for block in anatomy.blocks() if step >= 7 or block.layer > 3]

    found = order_of(METHODS["finercut"], anatomy, windows, 8)
    assert found == greedy(anatomy, windows, pool, 8, js_without)
    assert all(block.layer > 3 for block in found[:7])
    assert any(block.layer < 4 for block in found[7:])


def test_sleb_removes_in_the_order_of_the_naive_loop() -> None:
    anatomy, windows = deep(LAYERS), tiny_windows()
    inner: list[Unit] = [(Block(i, A), Block(i, M)) for i in range(1, LAYERS - 1)]
    found = order_of(METHODS["sleb"], anatomy, windows, 4)
    assert found == greedy(anatomy, windows, lambda _: inner, 4, loss_without)


def test_shortened_llama_ranks_once() -> None:
    anatomy, windows = deep(LAYERS + 2), tiny_windows()
    inner = [(Block(i, A), Block(i, M)) for i in range(4, LAYERS)]
    ranked = sorted(inner, key=lambda unit: loss_without(anatomy, windows, list(unit)))
    assert order_of(METHODS["shortened-llama"], anatomy, windows, 4) == [block for unit in ranked for block in unit]


def states(anatomy: Anatomy, windows: Windows) -> list[Tensor]:
    """What enters each layer, and what leaves the last one."""
    kept: list[Tensor] = []
    layers = anatomy.model.model.layers
    hooks = [layer.register_forward_pre_hook(lambda _, args: kept.append(args[0])) for layer in layers]
    hooks.append(layers[-1].register_forward_hook(lambda _, __, output: kept.append(output)))
    with torch.no_grad():
        anatomy.model(windows.ids)
    for hook in hooks:
        hook.remove()
    return kept


def test_shortgpt_ranks_layers_by_the_cosine_of_their_ends() -> None:
    anatomy, windows = deep(LAYERS), tiny_windows()
    kept = states(anatomy, windows)
    influence = [1 - cosine_similarity(kept[i], kept[i + 1], dim=-1).mean().item() for i in range(LAYERS)]
    ranked = sorted(range(LAYERS), key=lambda i: influence[i])
    found = order_of(METHODS["shortgpt"], anatomy, windows, LAYERS - 1)
    assert [block.layer for block in found[::2]] == ranked[:-1]


def test_llm_drop_ranks_attentions_and_mlps_together() -> None:
    anatomy, windows = deep(LAYERS), tiny_windows()
    values = dict(
        zip(
            anatomy.blocks(),
            CRITERIA["block-influence"](anatomy, windows, [], [(block,) for block in anatomy.blocks()]),
            strict=True,
        )
    )
    ranked = sorted(values, key=lambda block: values[block])
    assert order_of(METHODS["llm-drop"], anatomy, windows, 6) == ranked[:6]


def test_gradient_estimates_again_after_every_removal() -> None:
    anatomy, windows = deep(LAYERS), tiny_windows()
    removed: list[Block] = []
    for _ in range(3):
        left = [(block,) for block in anatomy.blocks() if block not in removed]
        values = METHODS["gradient"].criterion(anatomy, windows, removed, left)
        removed += left[values.index(min(values))]
    assert order_of(METHODS["gradient"], anatomy, windows, 3) == removed
