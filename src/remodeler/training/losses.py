"""What training minimises: one function each.

A loss is the *sum* over the scored tokens of a batch. Training adds up the batches of a step, on however many
processes, and divides once by the tokens of the whole step, so cutting a step into other batches changes nothing but
rounding.

Logits are made from the trunk's states in chunks of positions; where a batch has several, a chunk's logits are let go
and made again in the backward pass (Chen et al. 2016, arXiv 1604.06174), so those of a whole batch never exist.

Distillation (Hinton et al. 2015, arXiv 1503.02531) is the forward Kullback-Leibler divergence from teacher to student
over k + 1 outcomes: the teacher's k likeliest tokens, and all others as one. By the log-sum inequality that is never
more than the divergence over the whole vocabulary, and equal to it when k is the vocabulary. Deviation from the paper
there; FuseLLM's code drops the mass outside the k and renormalises.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as token_cross_entropy
from torch.utils.checkpoint import checkpoint

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import TopK, head_logits, scored_states, topk_logprobs, vocabulary
from remodeler.model.minibatches import Batch

Loss = Callable[[Anatomy, Batch], Tensor]
"""Sum over the scored tokens of a batch, a float32 scalar that can be differentiated."""
Teach = Callable[[Batch], TopK]
"""What a teacher predicts at the scored positions of a batch."""
Score = Callable[[Tensor, slice], Tensor]
"""Of some tokens, from their logits [tokens, vocabulary] float32 and their place in the batch: the sum of their losses,
or a row for each."""

HEAD_ELEMENTS = 2**25
"""Logits that may exist at once, with their gradients: 128 MB each in float32."""
LOWEST = -1e4
"""Stands for the log of nothing where it is multiplied by nothing."""


def head_parts(anatomy: Anatomy, batch: Batch, measure: Score) -> list[Tensor]:
    """What is measured of the logits of the scored tokens, which exist a chunk at a time in both passes."""
    states = scored_states(anatomy, batch)
    size = max(1, HEAD_ELEMENTS // vocabulary(anatomy.model))

    def measured(part: Tensor, place: slice) -> Tensor:
        return measure(head_logits(anatomy, part[None])[0].float(), place)

    if len(states) <= size:
        return [measured(states, slice(0, len(states)))]
    return [
        checkpoint(measured, part, slice(start, start + size), use_reentrant=False, preserve_rng_state=False)
        for start, part in zip(range(0, len(states), size), states.split(size), strict=True)
    ]


def head_sum(anatomy: Anatomy, batch: Batch, score: Score) -> Tensor:
    """Sum of a score over the scored tokens."""
    return torch.stack(head_parts(anatomy, batch, score)).sum()


def head_map(anatomy: Anatomy, batch: Batch, measure: Score) -> Tensor:
    """What is measured of every scored token: [scored, ...]."""
    return torch.cat(head_parts(anatomy, batch, measure))


def cross_entropy(anatomy: Anatomy, batch: Batch) -> Tensor:
    """Negative log-likelihood of the scored tokens, in nats."""
    return head_sum(
        anatomy, batch, lambda logits, part: token_cross_entropy(logits, batch.targets[part], reduction="sum")
    )


def divergence(logits: Tensor, wanted: TopK) -> Tensor:
    """Sum over tokens of the divergence from a sparse distribution to that of logits [tokens, vocabulary], in nats.

    Columns of probability 0 belong to the rest; a token all of whose columns are such is not taught.
    """
    chosen, others = outcomes(logits, wanted)
    total = _gap(wanted.logprobs, chosen)
    return total if others is None else total + _gap(wanted.rest.masked_fill(~taught(wanted), -torch.inf), others)


def reverse_divergence(logits: Tensor, wanted: TopK) -> Tensor:
    """The same from the student to the teacher, over the outcomes that the teacher holds possible."""
    chosen, others = outcomes(logits, wanted)
    total = _reverse(wanted.logprobs, chosen)
    return total if others is None else total + _reverse(wanted.rest.masked_fill(~taught(wanted), -torch.inf), others)


def ranks(logits: Tensor, wanted: TopK) -> Tensor:
    """Sum of the differences of probabilities rank by rank, whatever the tokens (ULD, Boizard et al. 2024, 2402.12030).

    Of the k likeliest of each, and of all others as one.
    """
    found = logits.topk(wanted.ids.shape[1], dim=1).values - logits.logsumexp(1, keepdim=True)
    apart = (found.exp() - wanted.logprobs.exp()).abs().sum(1)
    apart = apart + (found.exp().sum(1) - wanted.logprobs.exp().sum(1)).abs()
    return (apart * taught(wanted)).sum()


DIVERGENCES = {"forward": divergence, "reverse": reverse_divergence, "uld": ranks}


def taught(wanted: TopK) -> Tensor:
    """At which tokens a teacher has something to say: [tokens] bool."""
    return wanted.logprobs[:, 0] > -torch.inf


def outcomes(logits: Tensor, wanted: TopK) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of the wanted tokens [tokens, k], and of all others [tokens]; None where there are none."""
    whole = logits.logsumexp(1)
    chosen = logits.gather(1, wanted.ids) - whole[:, None]
    if wanted.ids.shape[1] == logits.shape[1]:
        return chosen, None
    ids = torch.where(wanted.logprobs > -torch.inf, wanted.ids, wanted.ids[:, :1])
    return chosen, logits.scatter(1, ids, -torch.inf).logsumexp(1) - whole


def _gap(wanted: Tensor, found: Tensor) -> Tensor:
    return (wanted.exp() * (wanted.clamp_min(LOWEST) - found)).sum()


def _reverse(wanted: Tensor, found: Tensor) -> Tensor:
    possible = wanted > -torch.inf
    return (found.exp() * (found - wanted.masked_fill(~possible, 0.0)) * possible).sum()


def teacher(anatomy: Anatomy, k: int, temperature: float = 1.0) -> Teach:
    """A teacher in memory, asked on the fly."""
    return lambda batch: topk_logprobs(anatomy, batch, k, temperature)


def distillation(teach: Teach, share: float = 0.0, temperature: float = 1.0, kind: str = "forward") -> Loss:
    """``share`` of the cross-entropy with the text, and 1 - ``share`` of the divergence from a teacher.

    Args:
        teach: gives the teacher's predictions, of logits divided by the same ``temperature``.
        share: 0 is distillation alone, 1 the text alone.
        temperature: divides the student's logits in the divergence, which is multiplied by its square so that
            gradients keep their size (Hinton et al., section 2).
        kind: a row of ``DIVERGENCES``; the cross-entropy with the teacher has the gradient of ``forward``.
    """
    if not 0 <= share <= 1:
        raise InputError(f"a share of {share} for the text's own loss was given: choose one between 0 and 1")
    if temperature <= 0:
        raise InputError(f"a temperature of {temperature} was given: choose one above 0")

    def loss(anatomy: Anatomy, batch: Batch) -> Tensor:
        wanted = teach(batch)

        def score(logits: Tensor, part: slice) -> Tensor:
            total = (1 - share) * temperature**2 * DIVERGENCES[kind](logits / temperature, wanted[part])
            return total + share * token_cross_entropy(logits, batch.targets[part], reduction="sum") if share else total

        return head_sum(anatomy, batch, score)

    return loss
