"""Losses equal their closed forms, whatever the chunks; a sparse distribution that holds all is the full one."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import TopK, batch_nll, sparse, topk_logprobs
from remodeler.model.minibatches import Batch, to_batch
from remodeler.training import losses
from remodeler.training.losses import cross_entropy, distillation, divergence, teacher
from tiny import VOCABULARY, tiny_anatomy, tiny_windows


@pytest.fixture(scope="module")
def student() -> Anatomy:
    return tiny_anatomy("llama", seed=1)


@pytest.fixture(scope="module")
def original() -> Anatomy:
    return tiny_anatomy("llama", seed=2)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return to_batch(tiny_windows(count=3), torch.device("cpu"))


def scored_logits(anatomy: Anatomy, batch: Batch) -> Tensor:
    """Full logits of the scored positions, as nobody should make them."""
    return anatomy.model(**batch.inputs).logits.flatten(0, 1)[batch.places]


def gradients(anatomy: Anatomy, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(anatomy.model.parameters())))


def full_divergence(wanted: Tensor, found: Tensor) -> Tensor:
    return F.kl_div(found.log_softmax(1), wanted.log_softmax(1), reduction="sum", log_target=True)


# Top-k with the mass outside ------------------------------------------------------------------------------------------


def test_top_k_of_known_probabilities() -> None:
    top = sparse(torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log(), 2)
    assert top.ids.tolist() == [[1, 3]]
    assert top.logprobs.exp().tolist()[0] == pytest.approx([0.4, 0.3])
    assert top.rest.exp().item() == pytest.approx(0.3)


def test_mass_outside_keeps_its_digits_where_the_difference_from_1_has_none() -> None:
    top = sparse(torch.tensor([[60.0, 20.0, 20.0]]), 1)
    assert top.rest.item() == pytest.approx(math.log(2) - 40)
    assert 1 - top.logprobs.exp().sum() == 0


def test_top_k_does_not_depend_on_the_chunks(original: Anatomy, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sparse(scored_logits(original, batch), 7)
    monkeypatch.setattr("remodeler.model.logprobs.CHUNK_POSITIONS", 4)
    monkeypatch.setattr("remodeler.model.logprobs.CHUNK_ELEMENTS", {"cpu": 1, "cuda": 1})
    chunked = topk_logprobs(original, batch, 7)
    assert torch.equal(chunked.ids, whole.ids)
    torch.testing.assert_close(chunked.logprobs, whole.logprobs)
    torch.testing.assert_close(chunked.rest, whole.rest)
    assert not chunked.logprobs.requires_grad


# Divergence -----------------------------------------------------------------------------------------------------------


def test_divergence_of_known_distributions() -> None:
    """Teacher 1/2, 1/4, 1/8, 1/8 and a uniform student, the last two outcomes as one."""
    wanted = sparse(torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log(), 2)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.25) + 0.25 * math.log(0.25 / 0.5)
    assert divergence(torch.zeros(1, 4), wanted).item() == pytest.approx(expected)


def test_divergence_is_the_full_one_where_k_is_the_vocabulary() -> None:
    first, second = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(divergence(second, sparse(first, 11)), full_divergence(first, second))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_divergence_is_below_the_full_one_and_above_zero(k: int) -> None:
    first, second = torch.randn(2, 1, 11, generator=torch.Generator().manual_seed(k))
    less = divergence(second, sparse(first, k)).item()
    assert 0 <= less <= full_divergence(first, second).item() + 1e-6


def test_divergence_has_its_lowest_gradient_where_the_distributions_agree() -> None:
    logits = torch.randn(4, 11, generator=torch.Generator().manual_seed(3), requires_grad=True)
    loss = divergence(logits, sparse(logits.detach(), 3))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("outside", [-math.inf, -200.0])
def test_no_mass_outside_gives_finite_gradients(outside: float) -> None:
    logits = torch.zeros(1, 4, requires_grad=True)
    wanted = TopK(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log(), torch.tensor([outside]))
    loss = divergence(logits, wanted)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# Losses of a model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "task"), [("llama", "causal"), ("gemma2", "causal"), ("bert", "masked"), ("t5", "seq2seq")]
)
def test_cross_entropy_is_that_of_evaluation(family: str, task: str) -> None:
    anatomy, batch = tiny_anatomy(family), to_batch(tiny_windows(task), torch.device("cpu"))
    found, wanted = cross_entropy(anatomy, batch), batch_nll(anatomy, batch)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["text", "teacher", "both"])
def test_chunks_change_neither_a_loss_nor_its_gradient(
    name: str, student: Anatomy, original: Anatomy, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = {"text": 1.0, "teacher": 0.0, "both": 0.3}[name]
    loss = distillation(teacher(original, 5), share)
    whole = loss(student, batch)
    expected = gradients(student, whole)
    monkeypatch.setattr(losses, "HEAD_ELEMENTS", 4 * VOCABULARY)
    chunked = loss(student, batch)
    torch.testing.assert_close(chunked, whole)
    for found, wanted in zip(gradients(student, chunked), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_distillation_with_all_tokens_is_the_divergence_of_full_logits(
    student: Anatomy, original: Anatomy, batch: Batch
) -> None:
    wanted = full_divergence(scored_logits(original, batch).detach(), scored_logits(student, batch))
    found = distillation(teacher(original, VOCABULARY))(student, batch)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(gradients(student, found), gradients(student, wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_share_mixes_text_and_teacher(student: Anatomy, original: Anatomy, batch: Batch) -> None:
    teach = teacher(original, 8)
    text, both = cross_entropy(student, batch), distillation(teach, 0.25)(student, batch)
    torch.testing.assert_close(both, 0.25 * text + 0.75 * distillation(teach)(student, batch))
    torch.testing.assert_close(distillation(teach, 1.0)(student, batch), text)


def test_temperature_softens_both_and_scales_by_its_square(student: Anatomy, original: Anatomy, batch: Batch) -> None:
    found = distillation(teacher(original, VOCABULARY, 2.0), temperature=2.0)(student, batch)
    wanted = full_divergence(scored_logits(original, batch) / 2, scored_logits(student, batch) / 2)
    torch.testing.assert_close(found, 4 * wanted)


def test_a_model_has_nothing_to_learn_from_itself(student: Anatomy, original: Anatomy, batch: Batch) -> None:
    itself = distillation(teacher(student, 6))(student, batch)
    assert itself.item() == pytest.approx(0, abs=1e-3)
    assert distillation(teacher(original, 6))(student, batch).item() > 1


@pytest.mark.parametrize(("share", "temperature"), [(1.5, 1.0), (0.5, 0.0)])
def test_settings_out_of_range_are_refused(share: float, temperature: float, original: Anatomy) -> None:
    with pytest.raises(InputError, match="choose one"):
        distillation(teacher(original, 2), share, temperature)
