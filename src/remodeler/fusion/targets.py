"""Many teachers' predictions become one target for each position of the student.

Every source of predictions, the student itself among them, is aligned with the student's positions and tokens
(`remodeler.fusion.teacher_predictions`). MinCE takes the teacher that predicts the text best, AvgCE the mean weighted
by how well each does (FuseLLM, arXiv 2401.10491, section 3.3; FuseChat, 2402.16107, section 3.2).

Deviations. Teachers are ranked by nats per byte, since longer tokens have larger losses; the papers' code takes the
mean over a teacher's own tokens (``rank_by="token"``). AvgCE's weights are the softmax of minus the loss of a token of
the student's length; the code takes the softmax of exp(-loss), which is nearly the same for all. A choice is made for a
whole text or, with ``level="token"``, for each stretch between bytes where both tokenizers have a border. What a
teacher holds likely outside its k stays in the rest. Where the chosen teacher has no prediction, nothing is taught; the
code teaches one token with certainty (``unaligned="onehot"``; FuseLLM's takes the wrong one, the current), and
``"next"`` takes the best teacher that has one. Sub-token positions have predictions too
(`remodeler.fusion.sub_tokens`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remodeler.fusion.config import TargetConfig
from remodeler.fusion.corpus import TokenizedTexts
from remodeler.fusion.teacher_predictions import TeacherPredictions, aligned_topk
from remodeler.fusion.vocabularies import map_topk
from remodeler.model.logprobs import TopK
from remodeler.training.teacher_store import Extras

# Which teacher counts -------------------------------------------------------------------------------------------------


def teacher_weights(
    student: TokenizedTexts, teachers: Sequence[TeacherPredictions], config: TargetConfig, text: int
) -> np.ndarray:
    """Weight of each teacher at the student's scored positions of a text: [positions, teachers], sums 1 or 0."""
    there = np.stack([each.rows[text] >= 0 for each in teachers], 1)
    if config.level == "token":
        costs = np.stack([stretch_costs(student, each, text) for each in teachers], 1)
    else:
        costs = np.broadcast_to(np.array([each.cost(config.rank_by, text) for each in teachers]), there.shape)
    if config.fusion == "avgce":
        length = student.bytes[text] / max(1, len(there)) if config.rank_by == "byte" else 1.0
        parts = np.exp(-(costs - costs.min(1, keepdims=True)) * length) * there
        return np.asarray(parts / np.maximum(parts.sum(1, keepdims=True), 1e-300))
    ranked = np.where(there, costs, np.inf) if config.level == "token" or config.unaligned == "next" else costs
    return np.asarray(np.eye(len(teachers))[ranked.argmin(1)] * there)


def stretch_costs(student: TokenizedTexts, teacher: TeacherPredictions, text: int) -> np.ndarray:
    """Nats per byte from every position of the student to the next that the teacher has too: [positions]."""
    rows, places = teacher.rows[text], student.positions[text]
    found = np.full(len(rows), np.inf)
    deep = np.zeros(len(rows), np.int64) if teacher.depths is None else teacher.depths[text]
    borders = np.flatnonzero((rows >= 0) & (deep == 0))
    if not len(borders):
        return found
    sums = np.concatenate([[0.0], teacher.losses_of(text).double().numpy().cumsum()])
    first = rows[borders]
    nats = np.diff([*sums[first], sums[-1]])
    cut = student.cuts[text]
    size = np.diff([*cut.ends[places[borders]], cut.ends[places[-1] + 1]])
    found[borders] = nats / np.maximum(size, 1)
    return np.where(rows >= 0, found[np.arange(len(rows)) - deep], np.inf)


# The target -----------------------------------------------------------------------------------------------------------


ExtraFacts = Callable[[TokenizedTexts, Sequence[TeacherPredictions], np.ndarray, int, int], Extras]
"""Of the student's texts from one number up to another, by the teacher that is chosen at each scored position."""


@dataclass(frozen=True)
class FusedTargets:
    """Targets for the student's windows, computed a few windows at a time."""

    student: TokenizedTexts
    teachers: Sequence[TeacherPredictions]
    config: TargetConfig
    size: int
    """Of the student's vocabulary."""
    facts: ExtraFacts | None = None
    """What else a loss needs of a position; of the best teacher only."""

    def __call__(self, start: int, stop: int) -> tuple[TopK, Extras]:
        """Targets at the scored positions of some windows."""
        weights = np.concatenate(
            [teacher_weights(self.student, self.teachers, self.config, text) for text in range(start, stop)]
        )
        aligned = [
            aligned_topk(each, self.student, start, stop, self.size, self.config.collide) for each in self.teachers
        ]
        known = torch.from_numpy(weights.sum(1) > 0)
        if self.config.fusion == "mince":
            best = weights.argmax(1)
            picked = _pick(aligned, torch.from_numpy(best))
            extras = self.facts(self.student, self.teachers, best, start, stop) if self.facts else {}
            return self._finish(picked, known, start, stop), extras
        return self._finish(self._mix(aligned, weights), known, start, stop), {}

    def _mix(self, aligned: Sequence[TopK], weights: np.ndarray) -> TopK:
        """The weighted mean of some predictions."""
        logs = torch.from_numpy(weights).float().log()
        ids = torch.cat([each.ids for each in aligned], 1)
        logprobs = torch.cat([each.logprobs + logs[:, [n]] for n, each in enumerate(aligned)], 1)
        rest = torch.stack([each.rest + logs[:, n] for n, each in enumerate(aligned)]).logsumexp(0)
        return map_topk(TopK(ids, logprobs, rest), torch.arange(self.size), self.size)

    def _finish(self, top: TopK, known: Tensor, start: int, stop: int) -> TopK:
        """Rows without a prediction are empty, or certain of the text's own token; where asked, the k sum to 1."""
        logprobs = top.logprobs.masked_fill(~known[:, None], -math.inf)
        rest = top.rest.masked_fill(~known, 0.0)
        if not self.config.rest:
            whole = logprobs.logsumexp(1, keepdim=True)
            some = known & (whole[:, 0] > -math.inf)
            logprobs = torch.where(some[:, None], logprobs - whole, logprobs)
            rest = rest.masked_fill(some, -math.inf)
        if self.config.unaligned == "skip":
            return TopK(top.ids, logprobs, rest)
        targets = self.student.windows.targets[start:stop].flatten()
        return make_certain(TopK(top.ids, logprobs, rest), targets[targets >= 0], ~known, self.size)


def _pick(predictions: Sequence[TopK], best: Tensor) -> TopK:
    """At every position the row of one teacher; all have the same width."""
    places = torch.arange(len(best))
    parts = ([getattr(each, name) for each in predictions] for name in ("ids", "logprobs", "rest"))
    return TopK(*(torch.stack(part)[best, places] for part in parts))


def make_certain(top: TopK, tokens: Tensor, where: Tensor, size: int) -> TopK:
    """Make some rows certain of one token each."""
    others = (tokens[:, None] + torch.arange(top.ids.shape[1])) % size  # distinct, the token itself first
    sure = torch.full_like(top.logprobs, -math.inf)
    sure[:, 0] = 0.0
    return TopK(
        torch.where(where[:, None], others, top.ids),
        torch.where(where[:, None], sure, top.logprobs),
        torch.where(where, torch.full_like(top.rest, -math.inf), top.rest),
    )


def summarize(config: TargetConfig, teachers: Sequence[TeacherPredictions], student: TokenizedTexts) -> dict[str, Any]:
    """By teacher the share of positions that it predicts, its bits per byte, and its mean weight."""
    count = len(student.positions)
    chosen = np.concatenate([teacher_weights(student, teachers, config, text) for text in range(count)]).mean(0)
    return {
        each.name: {
            "coverage": each.coverage,
            "bits_per_byte": float(each.losses.sum() / math.log(2) / each.bytes.sum()),
            "weight": float(chosen[place]),
        }
        for place, each in enumerate(teachers)
    }
