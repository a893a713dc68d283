"""Decoding: what a batch gives is what one row after the other gives, in every family, and what is drawn is fair."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError
from remodeler.generation import decoding
from remodeler.generation.decoding import Choice, Continued, continue_prompts, nucleus, pick, split_mix64, waits
from remodeler.runs.units import Block
from tiny import CAUSAL, VOCABULARY, tiny_checkpoint, tiny_model

GREEDY, NEW = Choice(0), 12
LENGTHS = (7, 3, 11, 7, 2)


def prompts() -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(4, VOCABULARY, length).tolist() for length in LENGTHS]


def numbers(rows: int, new: int = NEW, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**63), 2**63, (rows, new))


def doubled(name: str) -> Any:
    """A tiny model in float64, where a tie by rounding is out of the question."""
    model: Any = tiny_model(name).double()
    if "moe" in name or name == "mixtral":
        model.set_experts_implementation("eager")  # torch groups products of narrower numbers only
    return model


def likeliest(model: Any, prompt: list[int], came: tuple[int, ...]) -> tuple[list[int], float]:
    """What the model, reading it all at once and without a cache, would have put at each place, and its logprob."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *came]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    best = logits.float().log_softmax(1).max(1)
    return best.indices.tolist(), float(best.values.sum())


@pytest.mark.parametrize("name", CAUSAL)
def test_a_ragged_batch_gives_what_each_row_alone_makes_likeliest(name: str) -> None:
    model, rows = doubled(name), prompts()
    found = continue_prompts(model, rows, GREEDY, numbers(len(rows)), [])
    for each, prompt in zip(found, rows, strict=True):
        ids, logprob = likeliest(model, prompt, each.ids)
        assert list(each.ids) == ids
        assert each.logprob == pytest.approx(logprob, abs=1e-4)
        assert not each.ended


def test_greedy_equals_generate() -> None:
    model, rows = doubled("llama"), prompts()
    for each, prompt in zip(continue_prompts(model, rows, GREEDY, numbers(len(rows)), []), rows, strict=True):
        wanted = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0
        )
        assert list(each.ids) == wanted[0, len(prompt) :].tolist()


@pytest.mark.parametrize("choice", [GREEDY, Choice(), Choice(0.7, 0.8)])
def test_neither_the_batch_nor_the_order_changes_a_row(choice: Choice) -> None:
    model, rows, keys = doubled("llama"), prompts(), numbers(len(LENGTHS))
    together = continue_prompts(model, rows, choice, keys, [5])
    alone = [continue_prompts(model, [row], choice, keys[n : n + 1], [5])[0] for n, row in enumerate(rows)]
    backwards = continue_prompts(model, rows[::-1], choice, keys[::-1].copy(), [5])[::-1]
    assert [each.ids for each in together] == [each.ids for each in alone] == [each.ids for each in backwards]
    other = continue_prompts(model, rows, choice, numbers(len(rows), seed=1), [5])
    assert (together == other) is (choice == GREEDY), "other numbers, other tokens"


@pytest.mark.parametrize("form", ["stock", "packed"])
def test_pruned_models_and_a_shrinking_cache(form: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [Block(1, "attention"), Block(1 if form == "stock" else 2, "mlp")]
    save_pruned(tiny_checkpoint("mistral"), gone, tmp_path / "model", form)
    model, rows = load(tmp_path / "model", device="cpu").model.double(), prompts()
    assert (model.config.model_type == "mistral") is (form == "stock")
    stops = continue_prompts(model, rows, GREEDY, numbers(len(rows), 40), [])
    ends = {each.ids[place] for each, place in zip(stops, (3, 7, 20, 5, 30), strict=True)}
    whole = continue_prompts(model, rows, GREEDY, numbers(len(rows), 40), list(ends))
    monkeypatch.setattr(decoding, "CHECK", 1)
    sizes: list[int] = []
    select = decoding.Batch.part
    monkeypatch.setattr(decoding.Batch, "part", lambda self, rows: sizes.append(len(self.done)) or select(self, rows))
    assert continue_prompts(model, rows, GREEDY, numbers(len(rows), 40), list(ends)) == [
        Continued(each.ids, each.ended, pytest.approx(each.logprob, abs=1e-5)) for each in whole
    ]
    assert len(set(sizes)) > 1, "the batch became smaller"
    for each, free in zip(whole, stops, strict=True):
        first = next(place for place, token in enumerate(free.ids) if token in ends)
        assert each == Continued(free.ids[: first + 1], True, pytest.approx(each.logprob))


def test_logits_that_are_no_numbers_are_refused() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_submodule("model.norm").weight.fill_(math.nan)
    with pytest.raises(InputError, match="no numbers"):
        continue_prompts(model, prompts(), GREEDY, numbers(5), [])


# One token ------------------------------------------------------------------------------------------------------------


def logits(rows: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_that_of_transformers(top_p: float) -> None:
    found = nucleus(logits().softmax(1), top_p)
    wanted = TopPLogitsWarper(top_p)(torch.empty(0), logits()).softmax(1)
    torch.testing.assert_close(found / found.sum(1, keepdim=True), wanted)


def random_keys(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(numbers(count, 1, seed)[:, 0])


def test_the_generator_is_splitmix64() -> None:
    states = torch.tensor(1234567) + decoding.GOLDEN * torch.arange(1, 4)
    published = (6457827717110365317, 3203168211198807973, 9817491932198370423)
    assert [number % 2**64 for number in split_mix64(states).tolist()] == list(published)


def test_waiting_times_are_exponential_and_independent() -> None:
    times = waits(random_keys(400), 500)
    assert times.min() > 0
    for time in (0.001, 0.1, 1.0, 3.0):
        share = float((times > time).double().mean())
        assert share == pytest.approx(math.exp(-time), abs=4 * math.sqrt(math.exp(-time) / times.numel()))
    ranks = times.double().clamp(max=20)
    assert abs(torch.corrcoef(ranks[:, :20].T) - torch.eye(20)).max() < 0.25, "between tokens"
    assert abs(torch.corrcoef(ranks[:20]) - torch.eye(20)).max() < 0.25, "between rows"


def test_each_token_is_drawn_as_often_as_it_is_likely() -> None:
    count = 40_000
    row, choice = logits(1), Choice(0.8, 0.9)
    found = torch.bincount(pick(row.expand(count, -1), random_keys(count), choice), minlength=VOCABULARY)
    warped = TopPLogitsWarper(0.9)(torch.empty(0), TemperatureLogitsWarper(0.8)(torch.empty(0), row))

    def surprise(probabilities: Tensor) -> float:
        """Chi-square by its degrees of freedom, about 1; far more for another distribution."""
        expected = probabilities[probabilities > 0] * count
        return float(((found[probabilities > 0] - expected) ** 2 / expected).sum() / (len(expected) - 1))

    assert found[warped.softmax(1)[0] == 0].sum() == 0
    assert 0.5 < surprise(warped.softmax(1)[0]) < 1.7
    assert surprise(row.softmax(1)[0]) > 10, "the control: temperature and nucleus do something"


def test_two_models_with_one_key_choose_alike() -> None:
    """They differ at most in 2 d / (1 + d) of the draws, d being half the sum of the differences in probability."""
    count = 20_000
    one = logits(1)
    two = one + 0.2 * logits(1, seed=1) / 3
    distance = float((one.softmax(1) - two.softmax(1)).abs().sum() / 2)
    keys = random_keys(count)
    first, second = (pick(each.expand(count, -1), keys, Choice()) for each in (one, two))
    assert distance / 2 < float((first != second).double().mean()) < 2 * distance / (1 + distance) + 0.01
    apart = pick(two.expand(count, -1), random_keys(count, 1), Choice())
    assert float((first != apart).double().mean()) > 3 * distance, "the control: with other keys they do not"


def test_nothing_impossible_is_drawn() -> None:
    row = torch.full((1, VOCABULARY), -math.inf)
    row[0, [7, 9]] = torch.tensor([0.0, 3.0])
    assert set(pick(row.expand(5000, -1), random_keys(5000), Choice()).tolist()) == {7, 9}


def test_a_low_temperature_is_greedy() -> None:
    assert pick(logits(), random_keys(6), Choice(1e-3)).tolist() == pick(logits(), random_keys(6), GREEDY).tolist()
