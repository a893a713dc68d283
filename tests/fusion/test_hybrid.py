"""GOLD's hybrid loss over sparse targets, held against the same over whole vocabularies."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from remodeler.checkpoint.load import load
from remodeler.fusion.config import MatchConfig
from remodeler.fusion.corpus import split_texts, tokenize_texts
from remodeler.fusion.cross_tokenizer import groups
from remodeler.fusion.hybrid import SCALE, SPAN, TEACHER, group_facts, match_tokens, outcomes, position_losses, spans
from remodeler.fusion.teacher_predictions import assign_by_rank
from remodeler.fusion.teachers import predict, predict_own
from remodeler.fusion.vocabularies import map_topk_to
from remodeler.model.logprobs import TopK
from tiny import tiny_model, tiny_tokenizer
from tiny_tokenizers import pieces as sentence_pieces

OURS, THEIRS, K = 12, 10, 10
MAPPING = torch.tensor([3, -1, 0, 7, -1, 11, -1, 2, 5, -1])
"""Six of ten tokens are the student's."""
STORY = "the cat sat on the mat and the dogs ran to the river. "


def dense(ours: Tensor, theirs: Tensor, one: list[int], two: list[int], came: list[int], said: list[int]) -> float:
    """The loss of one group over whole vocabularies, as TRL's GOLD trainer computes it.

    Args:
        ours: [student positions, vocabulary] probabilities.
        theirs: of the teacher.
        one: the group's positions of the student.
        two: of the teacher.
        came: the student's tokens.
        said: the teacher's.
    """
    p = ours[one[0]] * math.prod(float(ours[place, came[place]]) for place in one[1:])
    q = theirs[two[0]] * math.prod(float(theirs[place, said[place]]) for place in two[1:])
    matched = MAPPING >= 0
    a, b = p[MAPPING[matched]], q[matched]
    middle = (a + b) / 2
    divergence = 0.5 * (b * (b / middle).log() + a * (a / middle).log()).sum()
    lacking = torch.ones(OURS, dtype=torch.bool).scatter(0, MAPPING[matched], False)
    left = p[lacking].sort(descending=True).values
    right = torch.nn.functional.pad(q[~matched].sort(descending=True).values, (0, len(left) - int((~matched).sum())))
    share = float(matched.float().mean())
    return float(share * divergence + (1 - share) * (left - right).abs().sum())


def test_with_all_tokens_it_is_the_loss_over_whole_vocabularies() -> None:
    """Groups of one to one, two to one, one to two and two to three."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(6, size, generator=generator) * 2 for size in (OURS, THEIRS))
    came, said = [3, 1, 4, 11, 5, 9], [2, 6, 5, 3, 9, 0, 8]
    theirs = torch.cat([theirs, torch.randn(1, THEIRS, generator=generator)])
    cells = [([0], [0]), ([1, 2], [1]), ([3], [2, 3]), ([4, 5], [4, 5, 6])]
    wanted = sum(dense(ours.softmax(1), theirs.softmax(1), *cell, came, said) for cell in cells)

    spare = torch.ones(OURS, dtype=torch.bool).scatter(0, MAPPING[MAPPING >= 0], False).nonzero()[:, 0]
    firsts = [two[0] for _, two in cells]
    logs = theirs.log_softmax(1)
    values, ids = logs[firsts].topk(K)
    full = TopK(ids, values, torch.full((4,), -math.inf))
    target = map_topk_to(full, assign_by_rank(MAPPING[full.ids], spare), OURS)
    known = torch.ones(OURS, dtype=torch.bool).scatter(0, spare, False).expand(6, -1)
    rows = TopK(torch.arange(K).repeat(6, 1), torch.full((6, K), -math.inf), torch.zeros(6))
    places = [one[0] for one, _ in cells]
    for name in ("ids", "logprobs", "rest"):
        getattr(rows, name)[places] = getattr(target, name)
    span, scale = torch.ones(6, dtype=torch.uint8), torch.zeros(6)
    for one, two in cells:
        span[one[0]] = len(one)
        scale[one[0]] = sum(logs[place, said[place]] for place in two[1:])
    found = outcomes(ours, rows, known, torch.tensor(came))
    losses = position_losses(
        found, rows, known.gather(1, rows.ids), torch.full((6,), 0.6), {SPAN: span, SCALE: scale}, 0.5
    )
    assert float(losses.sum()) == pytest.approx(wanted, rel=1e-5)
    assert losses[[2, 5]].tolist() == [0, 0], "inside a group nothing is taught"


def test_a_student_that_says_the_same_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(5, OURS, requires_grad=True)
    values, ids = logits.detach().log_softmax(1).topk(4)
    rest = (1 - values.exp().sum(1)).log()
    known = torch.ones(5, OURS, dtype=torch.bool)
    facts = {SPAN: torch.ones(5, dtype=torch.uint8), SCALE: torch.zeros(5)}
    rows = TopK(ids, values, rest)
    for beta in (0.0, 0.5, 1.0):
        found = outcomes(logits, rows, known, ids[:, 0])
        loss = position_losses(found, rows, known.gather(1, ids), torch.ones(5), facts, beta).sum()
        (slope,) = torch.autograd.grad(loss, logits)
        torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0, atol=1e-5)
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    root, made = tmp_path_factory.mktemp("models"), []
    for seed, tokenizer in enumerate((tiny_tokenizer(), sentence_pieces())):
        folder = root / f"m{seed}"
        tiny_model("llama", seed, vocab_size=max(300, len(tokenizer))).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made.append(load(folder, device="cpu"))
    return made


def test_groups_are_those_of_the_same_bytes_and_their_scale_is_the_joint_probability(
    models: list[Any], tmp_path: Path
) -> None:
    student, teacher = models
    said = split_texts([STORY], [student.tokenizer, teacher.tokenizer], 64)
    ours, theirs = (tokenize_texts(said, each.tokenizer, 64, 10**6) for each in models)
    other = predict(
        student, ours, teacher, said, 64, 5, tmp_path / "other", MatchConfig(map="exact", inside=False), by_rank=True
    )
    span, scale = spans(ours, other, 0)
    cells = {int(one): (int(two - one), first, last) for one, two, first, last in groups(ours.cuts[0], theirs.cuts[0])}
    losses = other.losses_of(0).tolist()
    several = 0
    for place, position in enumerate(ours.positions[0].tolist()):
        if (
            other.rows[0][place] >= 0
            and position + 1 in cells
            and position + 1 + cells[position + 1][0] < len(ours.cuts[0])
        ):
            size, first, last = cells[position + 1]
            row = int(other.rows[0][place])
            assert span[place] == size
            assert scale[place] == pytest.approx(-sum(losses[row + 1 : row + int(last - first)]), abs=1e-4)
            several += size > 1
    assert several
    own = predict_own(student, ours, 5, tmp_path / "own")
    best = np.array([0, 1] * len(span))[: len(span)]
    facts = group_facts(ours, [own, other], best, 0, 1)
    assert facts[TEACHER].tolist() == best.tolist()
    assert facts[SPAN].tolist() == [int(span[place]) if teacher else 1 for place, teacher in enumerate(best)]
    found = match_tokens([own, other], 300)
    assert found.known[0].all()
    assert found.weights[0] == 1
    assert other.spare is not None
    assert not found.known[1][other.spare].any()
    assert int(found.known[1].sum()) + len(other.spare) == 300
