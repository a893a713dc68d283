"""The hybrid loss of GOLD: tokens that both vocabularies have one by one, the others by rank (TRL's GOLD trainer).

Where the student and a teacher cover the same bytes by one token or several each, the two runs of tokens are a group.
A model's prediction for a group is the one at the group's start, times the probabilities of the text's tokens after the
first: for the text's tokens that is their joint probability, for the others no more than the same scale.
Of two such vectors, tokens that both vocabularies have are compared by the generalised Jensen-Shannon divergence
(Agarwal et al. 2024, arXiv 2306.13649, section 3), the others by ULD (Boizard et al. 2024, 2402.12030): the likeliest
with the likeliest. The two count as much as the share of the teacher's vocabulary that the student has, and what is
left of 1.

Deviations: of a teacher k tokens and the rest are known, so there are k outcomes and one more, compared as one; with k
the vocabulary it is the same. A teacher with the student's own vocabulary has only tokens in common. The sum over
groups is divided by the tokens of a step, as every loss here, not by the groups of each text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from remodeler.fusion.corpus import TokenizedTexts
from remodeler.fusion.teacher_predictions import TeacherPredictions
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import TopK, sum_dtype
from remodeler.model.minibatches import Batch
from remodeler.training.losses import LOWEST, Loss, head_map, taught
from remodeler.training.teacher_store import Extras, Store, extras, read_from

SPAN, SCALE, TEACHER = "span", "scale", "teacher"
"""Facts of a position: the student's tokens in its group, the log of the joint probability of the teacher's tokens
after the first, and the number of the teacher."""
MOST = 255
"""Tokens of a group; one with more is left as its first token."""


@dataclass(frozen=True, eq=False)
class CommonTokens:
    """Which tokens of the student each teacher has, and how much of the teacher's vocabulary that is."""

    known: Tensor
    """[teachers, vocabulary] bool."""
    weights: Tensor
    """[teachers]"""

    def to(self, device: torch.device) -> "CommonTokens":
        """The same on a device."""
        return replace(self, known=self.known.to(device), weights=self.weights.to(device))


def match_tokens(teachers: Sequence[TeacherPredictions], size: int) -> CommonTokens:
    """The tokens that some teachers, by exact maps, have in common with the student."""
    known = torch.ones(len(teachers), size, dtype=torch.bool)
    weights = torch.ones(len(teachers))
    for place, each in enumerate(teachers):
        if each.mapping is not None and each.spare is not None:
            found = each.mapping[each.mapping >= 0]
            known[place] = torch.zeros(size, dtype=torch.bool).scatter(0, found, True)
            weights[place] = len(found) / len(each.mapping)
    return CommonTokens(known, weights)


# Groups ---------------------------------------------------------------------------------------------------------------


def group_facts(
    student: TokenizedTexts, teachers: Sequence[TeacherPredictions], best: np.ndarray, start: int, stop: int
) -> Extras:
    """Facts of the groups at the scored positions of some texts, for the loss.

    Args:
        student: the texts.
        teachers: with their predictions.
        best: [positions] the number of the teacher that is chosen.
        start: first text.
        stop: the one behind the last.
    """
    found = [[spans(student, each, text) for text in range(start, stop)] for each in teachers]
    sides = [[np.concatenate([pair[side] for pair in each]) for each in found] for side in (0, 1)]
    span, scale = (torch.from_numpy(np.stack(side)[best, np.arange(len(best))]) for side in sides)
    return {SPAN: span.to(torch.uint8), SCALE: scale.half(), TEACHER: torch.from_numpy(best).to(torch.uint8)}


def spans(student: TokenizedTexts, teacher: TeacherPredictions, text: int) -> tuple[np.ndarray, np.ndarray]:
    """Student tokens in the group, and log of the teacher's scale, at each scored position of a text."""
    rows, positions = teacher.rows[text], student.positions[text]
    span, scale = np.ones(len(rows), np.int64), np.zeros(len(rows), np.float32)
    borders = np.flatnonzero(rows >= 0)
    first, after = borders[:-1], borders[1:]
    whole = (positions[after] - positions[first] == after - first) & (after - first <= MOST)
    first, after = first[whole], after[whole]
    sums = np.append(0.0, -teacher.losses_of(text).double().numpy().cumsum())
    span[first] = after - first
    scale[first] = sums[rows[after]] - sums[rows[first] + 1]
    return span, scale


# The loss -------------------------------------------------------------------------------------------------------------


def hybrid_loss(
    store: Store, found: CommonTokens, share: float = 0.0, temperature: float = 1.0, beta: float = 0.5
) -> Loss:
    """The loss: ``share`` of the cross-entropy with the text, and 1 - ``share`` of the hybrid loss.

    Args:
        store: of fused targets, with what `group_facts` gives.
        found: which tokens go one by one.
        share: 0 is distillation alone.
        temperature: divides the student's logits.
        beta: of the divergence: 0 is forward Kullback-Leibler, 1 reverse, as in GOLD.
    """
    teach = read_from(store)

    def loss(anatomy: Anatomy, batch: Batch) -> Tensor:
        wanted, facts = teach(batch), _facts(store, batch)
        here = found.to(batch.targets.device)
        known = here.known[facts[TEACHER].long()]

        def measure(logits: Tensor, part: slice) -> Tensor:
            plain = -cross_entropy(logits, batch.targets[part], reduction="none")
            soft = logits / temperature
            return torch.cat([outcomes(soft, wanted[part], known[part], batch.targets[part]), plain[:, None]], 1)

        predicted = head_map(anatomy, batch, measure)
        weight = here.weights[facts[TEACHER].long()]
        apart = position_losses(predicted[:, :-1], wanted, known.gather(1, wanted.ids), weight, facts, beta).sum()
        text = -predicted[:, -1].sum()
        total: Tensor = (1 - share) * temperature**2 * apart + share * text
        return total

    return loss


def _facts(store: Store, batch: Batch) -> Extras:
    device, names = batch.targets.device, (SPAN, SCALE, TEACHER)
    parts = [extras(store, names, number, number + 1) for number in batch.numbers]
    return {name: torch.cat([part[name] for part in parts]).to(device) for name in names}


def outcomes(logits: Tensor, wanted: TopK, known: Tensor, gold: Tensor) -> Tensor:
    """Log-probabilities that the loss needs of logits [tokens, vocabulary]: [tokens, 2 k + 2].

    Of the wanted tokens, of the k likeliest that the teacher does not have, of all others, of the text's own token.
    """
    k, whole = wanted.ids.shape[1], logits.logsumexp(1, keepdim=True)
    likely = logits.masked_fill(known, LOWEST).topk(k, dim=1)
    named = known.gather(1, wanted.ids) & (wanted.logprobs > -math.inf)
    ranked = ~known.gather(1, likely.indices)
    none = torch.zeros_like(known)
    named_ids = none.scatter(1, wanted.ids, named) | none.scatter(1, likely.indices, ranked)
    left = logits.masked_fill(named_ids, LOWEST).logsumexp(1, keepdim=True)
    chosen, others = logits.gather(1, wanted.ids), likely.values.masked_fill(~ranked, LOWEST)
    predicted: Tensor = torch.cat([chosen, others, left, logits.gather(1, gold[:, None])], 1) - whole
    return predicted


def position_losses(
    predicted: Tensor, wanted: TopK, known: Tensor, weight: Tensor, facts: Extras, beta: float
) -> Tensor:
    """The loss of every position: [tokens]; 0 where nothing is taught.

    Args:
        predicted: by the student, as `outcomes` gives it.
        wanted: the target.
        known: [tokens, k] which of its columns are tokens of both.
        weight: [tokens] of these.
        facts: of the groups.
        beta: of the divergence.
    """
    k = wanted.ids.shape[1]
    chosen, others, left, gold = predicted.split([k, k, 1, 1], 1)
    ours, theirs = _joint_logprobs(gold[:, 0], facts[SPAN].long())[:, None], facts[SCALE].float()[:, None]
    named = known & (wanted.logprobs > -math.inf)
    one_by_one = (_jensen_shannon_terms(chosen + ours, wanted.logprobs + theirs, beta) * named).sum(1)
    one_by_one = one_by_one + _jensen_shannon_terms(left[:, 0] + ours[:, 0], wanted.rest + theirs[:, 0], beta)
    ranked = ((wanted.logprobs + theirs).exp() * ~named).sort(dim=1, descending=True).values
    by_rank = ((others + ours).exp() - ranked).abs().sum(1)
    total: Tensor = (weight * one_by_one + (1 - weight) * by_rank) * taught(wanted)
    return total


def _joint_logprobs(gold: Tensor, span: Tensor) -> Tensor:
    """The log of the joint probability of a group's tokens after the first: [tokens]."""
    sums = gold.to(sum_dtype(gold.device)).cumsum(0)
    places = torch.arange(len(gold), device=gold.device)
    last = (places + span - 1).clamp(max=len(gold) - 1)
    return (sums[last] - sums).to(gold.dtype)


def _jensen_shannon_terms(ours: Tensor, theirs: Tensor, beta: float) -> Tensor:
    """Terms of the generalised Jensen-Shannon divergence of log-probabilities, of sums that need not be 1."""
    theirs, ours = theirs.clamp_min(LOWEST), ours.clamp_min(LOWEST)
    if beta in (0.0, 1.0):
        return theirs.exp() * (theirs - ours) if beta == 0 else ours.exp() * (ours - theirs)
    middle = torch.logaddexp(theirs + math.log(beta), ours + math.log(1 - beta))
    return beta * theirs.exp() * (theirs - middle) + (1 - beta) * ours.exp() * (ours - middle)
