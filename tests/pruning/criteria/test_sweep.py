"""The shared-prefix pass: the plain loop's bits with half its work, at any batch size and number of processes."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from forks import found_by_two
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll
from remodeler.pruning.criteria.sweep import sweep
from remodeler.runs.units import Block
from tiny import LAYERS, tiny_anatomy, tiny_windows
from units import candidates, counting

A, M = "attention", "mlp"
COUNT = 7
"""Windows: none of the batch sizes below divides it."""


def plain(anatomy: Anatomy, removed: list[Block], size: int, count: int = COUNT) -> list[float]:
    """Mask one block, run the model."""
    losses = []
    for unit in candidates(anatomy, removed):
        with bypassed(anatomy, [*removed, *unit]):
            losses.append(mean_nll(anatomy, tiny_windows(count=count), size))
    return losses


@pytest.mark.parametrize("removed", [[], [Block(1, M), Block(2, A), Block(2, M)]], ids=["intact", "three removed"])
@pytest.mark.parametrize("size", [2, 3, 4, 5, COUNT])
def test_any_batch_size_gives_the_plain_loops_bits(size: int, removed: list[Block]) -> None:
    anatomy = tiny_anatomy("llama")
    shared = sweep(anatomy, tiny_windows(count=COUNT), removed, candidates(anatomy, removed), size)
    assert shared == plain(anatomy, removed, size)


def test_many_batches_are_summed_as_the_plain_loop_sums_them() -> None:
    """The two sum in another order; float64 sums of float32 log-probabilities are exact, a very sure model's too."""
    anatomy, windows = tiny_anatomy("llama"), tiny_windows(count=33)
    with torch.no_grad():
        anatomy.model.get_output_embeddings().weight.mul_(30)
    assert sweep(anatomy, windows, [], candidates(anatomy, []), size=1) == plain(anatomy, [], size=1, count=33)


def test_the_default_batch_size_is_the_plain_loops() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows(count=COUNT)
    with bypassed(anatomy, [Block(3, M)]):
        alone = mean_nll(anatomy, windows)
    assert sweep(anatomy, windows, [], [(Block(3, M),)]) == [alone]


@pytest.mark.parametrize("size", [3, COUNT])
def test_blocks_run_once_for_the_prefixes_and_once_behind_each_candidate(size: int) -> None:
    """2L for the recording; behind the attention of layer i its MLP and the later layers, behind its MLP only those."""
    anatomy = tiny_anatomy("llama")
    batches = -(-COUNT // size)
    with counting(anatomy) as ran:
        sweep(anatomy, tiny_windows(count=COUNT), [], candidates(anatomy, []), size)
    suffixes = sum((1 + 2 * (LAYERS - 1 - i)) + 2 * (LAYERS - 1 - i) for i in range(LAYERS))
    assert len(ran) == batches * (2 * LAYERS + suffixes) == batches * LAYERS * (2 * LAYERS + 1)


def test_the_plain_loop_runs_every_other_block_for_each_candidate() -> None:
    """The control of the count above: nothing shared is 2L (2L - 1)."""
    anatomy = tiny_anatomy("llama")
    with counting(anatomy) as ran:
        plain(anatomy, [], COUNT)
    assert len(ran) == 2 * LAYERS * (2 * LAYERS - 1)


def test_progress_grows_to_one() -> None:
    anatomy, shares = tiny_anatomy("llama"), list[float]()
    sweep(
        anatomy,
        tiny_windows(count=COUNT),
        [],
        candidates(anatomy, []),
        size=3,
        progress=lambda share, _: shares.append(share),
    )
    assert shares == sorted(set(shares))
    assert len(shares) == 3 * 2 * LAYERS
    assert shares[0] > 0
    assert shares[-1] == 1


def one_of_two(rank: int, store: str) -> tuple[list[float], int]:
    """What one of two processes returns, and how many blocks it evaluated."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    anatomy = tiny_anatomy("llama")
    with counting(anatomy) as ran:
        losses = sweep(anatomy, tiny_windows(count=COUNT), [Block(1, M)], candidates(anatomy, [Block(1, M)]), size=2)
    distributed.destroy_process_group()
    return losses, len(ran)


@pytest.mark.skipif(not distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_share_the_batches_and_give_the_same_bits(tmp_path: Path) -> None:
    anatomy = tiny_anatomy("llama")
    with counting(anatomy) as ran:
        alone = sweep(anatomy, tiny_windows(count=COUNT), [Block(1, M)], candidates(anatomy, [Block(1, M)]), size=2)
    (first, did), (second, did_too) = found_by_two(__file__, tmp_path / "store")
    assert first == second == alone
    assert did + did_too == len(ran)
    assert min(did, did_too) > 0


def test_the_model_is_as_it_was_after_a_failure() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    with torch.no_grad():
        before = anatomy.model(windows.ids).logits

    def stop(share: float, words: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(anatomy, windows, [Block(0, M)], candidates(anatomy, [Block(0, M)]), progress=stop)
    with torch.no_grad():
        assert torch.equal(anatomy.model(windows.ids).logits, before)
