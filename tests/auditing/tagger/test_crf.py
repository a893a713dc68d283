"""The CRF equals the enumeration of all tags; losses have their closed forms."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from remodeler.auditing.tagger.crf import Chain, log_likelihood, log_marginals, log_partition, path_score, viterbi
from remodeler.auditing.tagger.labels import SCHEMES
from remodeler.auditing.tagger.losses import TAG_LOSSES, cross_entropy, dice, focal

LENGTHS = [6, 1, 4, 2]


def chain(scheme: str, seed: int = 0) -> Chain:
    found = Chain(SCHEMES[scheme])
    generator = torch.Generator().manual_seed(seed)
    for parameter in found.parameters():
        parameter.data.normal_(generator=generator)
    return found


def case(scheme: str) -> tuple[Chain, Tensor, Tensor]:
    """A batch of rows of different lengths, garbage behind their ends."""
    emissions = torch.randn(
        len(LENGTHS), max(LENGTHS), len(SCHEMES[scheme]), generator=torch.Generator().manual_seed(1)
    )
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return chain(scheme), torch.where(mask[..., None], emissions, 1e3), mask


def by_hand(made: Chain, emissions: Tensor) -> dict[tuple[int, ...], float]:
    """The score of every sequence of tags of one row."""
    start, steps, end = (each.tolist() for each in made.scores())
    rows = emissions.tolist()
    found = {}
    for tags in itertools.product(range(len(start)), repeat=len(rows)):
        moved = sum(steps[one][two] for one, two in itertools.pairwise(tags))
        said = sum(row[tag] for row, tag in zip(rows, tags, strict=True))
        found[tags] = start[tags[0]] + end[tags[-1]] + moved + said
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_partition_best_tags_and_marginals_equal_enumeration(scheme: str) -> None:
    made, emissions, mask = case(scheme)
    partition, best = log_partition(made, emissions, mask), viterbi(made, emissions, mask)
    marginals = log_marginals(made, emissions, mask).exp()
    for row, length in enumerate(LENGTHS):
        scores = by_hand(made, emissions[row, :length])
        weights = torch.tensor(list(scores.values()), dtype=torch.float64)
        assert partition[row].item() == pytest.approx(weights.logsumexp(0).item(), abs=1e-4)
        assert tuple(best[row, :length].tolist()) == max(scores, key=lambda tags: scores[tags])
        assert best[row, length:].eq(0).all()
        shares = weights.softmax(0)
        for time in range(length):
            for tag in range(len(SCHEMES[scheme])):
                wanted = sum(share for share, tags in zip(shares.tolist(), scores, strict=True) if tags[time] == tag)
                assert marginals[row, time, tag].item() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_padded_batch_is_its_rows_one_by_one(scheme: str) -> None:
    made, emissions, mask = case(scheme)
    tags = viterbi(made, emissions, mask)
    for row, length in enumerate(LENGTHS):
        alone = emissions[row : row + 1, :length], mask[row : row + 1, :length]
        assert torch.equal(viterbi(made, *alone)[0], tags[row, :length])
        assert log_partition(made, *alone).item() == pytest.approx(log_partition(made, emissions, mask)[row].item())
        assert torch.allclose(log_marginals(made, *alone)[0], log_marginals(made, emissions, mask)[row, :length])
        one = log_likelihood(made, alone[0], tags[row : row + 1, :length], alone[1])
        assert one.item() == pytest.approx(log_likelihood(made, emissions, tags, mask)[row].item(), abs=1e-5)


def test_marginals_are_the_gradient_of_the_partition() -> None:
    made, emissions, mask = case("bio")
    emissions.requires_grad_()
    log_partition(made, emissions, mask).sum().backward()
    assert emissions.grad is not None
    assert torch.allclose(emissions.grad[mask], log_marginals(made, emissions, mask).exp()[mask], atol=1e-5)


def test_no_span_begins_with_inside() -> None:
    made, emissions, mask = case("bio")
    emissions[..., 2] += 50  # every piece would rather be I
    tags = viterbi(made, emissions, mask)
    assert tags[0].tolist() == [1, 2, 2, 2, 2, 2]
    assert log_marginals(made, emissions, mask)[:, 0, 2].exp().max() < 1e-6
    emissions[..., 2] -= 100
    emissions[..., 0] += 50
    emissions[0, 3, 2] += 300
    assert viterbi(made, emissions, mask)[0, 2:4].tolist() == [1, 2]  # the piece before an I is a B, at a price


def test_without_scores_of_neighbours_it_is_the_softmax() -> None:
    made = Chain(SCHEMES["io"])
    _, emissions, mask = case("io")
    wanted = emissions.log_softmax(-1)
    assert torch.allclose(log_marginals(made, emissions, mask)[mask], wanted[mask], atol=1e-5)
    tags = emissions.argmax(-1)
    picked = (wanted.gather(2, tags[..., None])[..., 0] * mask).sum(1)
    assert torch.allclose(log_likelihood(made, emissions, tags, mask), picked, atol=1e-4)


def test_equal_scores_go_to_the_lower_tag() -> None:
    made, mask = Chain(SCHEMES["io"]), torch.ones(1, 3, dtype=torch.bool)
    assert viterbi(made, torch.zeros(1, 3, 2), mask).tolist() == [[0, 0, 0]]


def test_it_computes_in_float32() -> None:
    made, emissions, mask = case("io")
    half = emissions.clamp(-3, 3).bfloat16()
    assert log_partition(made.bfloat16(), half, mask).dtype == torch.float32
    assert path_score(made, half, torch.zeros_like(mask, dtype=torch.long), mask).dtype == torch.float32


# Losses ---------------------------------------------------------------------------------------------------------------

FOUND = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]]).log()
WANTED = torch.eye(2)[torch.tensor([[0, 1, 1]])]
MASK = torch.tensor([[True, True, False]])


def test_closed_forms() -> None:
    assert cross_entropy(FOUND, WANTED, MASK).item() == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)
    assert focal(FOUND, WANTED, MASK).item() == pytest.approx(-(0.01 * math.log(0.9) + 0.04 * math.log(0.8)) / 2)
    outside, inside = 2 * 0.9 / (1.1 + 1), 2 * 0.8 / (0.9 + 1)
    assert dice(FOUND, WANTED, MASK).item() == pytest.approx(1 - (outside + inside) / 2)


@pytest.mark.parametrize("name", TAG_LOSSES)
def test_padding_counts_nothing_and_being_right_and_sure_costs_nothing(name: str) -> None:
    loss = TAG_LOSSES[name]
    assert loss(FOUND, WANTED, MASK).item() == pytest.approx(loss(FOUND[:, :2], WANTED[:, :2], MASK[:, :2]).item())
    sure = torch.tensor([[[1 - 1e-7, 1e-7], [1e-7, 1 - 1e-7], [0.5, 0.5]]]).log()
    assert loss(sure, WANTED, MASK).item() == pytest.approx(0, abs=1e-5)
    assert loss(sure.flip(-1), WANTED, MASK).item() > 0.9


def test_soft_targets_are_mixed() -> None:
    half = torch.full((1, 3, 2), 0.5)
    both = (cross_entropy(FOUND, WANTED, MASK) + cross_entropy(FOUND, 1 - WANTED, MASK)) / 2
    assert cross_entropy(FOUND, half, MASK).item() == pytest.approx(both.item())
