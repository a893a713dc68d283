"""Mini-batches and their size."""

import pytest
import torch

from remodeler.data.windows import Windows
from remodeler.model import minibatches
from remodeler.model.minibatches import MOST_TOKENS, batch_size, fitting_tokens, widest
from tiny import tiny_anatomy

GIB = 2**30


def windows(count: int, length: int) -> Windows:
    ids = torch.zeros(count, length, dtype=torch.long)
    return Windows(ids, ids)


def test_on_a_cpu_the_cache_decides() -> None:
    anatomy = tiny_anatomy("llama")
    assert [batch_size(anatomy, windows(1, length)) for length in (256, 2048, 4096)] == [8, 1, 1]


@pytest.mark.parametrize(("free", "tokens"), [(66, 32768), (12, 8192), (6, 4096), (1, 512), (0, 1)])
def test_tokens_of_a_7b_model_in_bfloat16_follow_the_free_memory(free: int, tokens: int) -> None:
    assert fitting_tokens(free * GIB, 11008, 2) == tokens


def test_the_states_of_a_mini_batch_take_their_share_and_no_more() -> None:
    for free in range(GIB // 8, 64 * GIB, GIB):
        tokens = fitting_tokens(free, 4096, 2)
        wanted = tokens * minibatches.STATES_INSIDE * 4096 * 2
        assert wanted <= minibatches.SHARE_OF_FREE * free
        assert tokens == MOST_TOKENS or 2 * wanted > minibatches.SHARE_OF_FREE * free


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_the_widest_vector_is_that_of_an_mlp(family: str) -> None:
    anatomy = tiny_anatomy(family)
    config = anatomy.model.config
    inner = getattr(config, "intermediate_size", None) or config.n_inner or 4 * config.n_embd
    assert inner <= widest(anatomy) <= 3 * max(inner, config.hidden_size)  # fused projections are wider
