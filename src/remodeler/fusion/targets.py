"""Many teachers' predictions become one target for each position of the student.

Every source of predictions, the student itself among them, is a voice (`remodeler.fusion.teacher_predictions`). MinCE
takes the voice that predicts the text best, AvgCE the mean weighted by how well each does (FuseLLM, arXiv 2401.10491,
section 3.3; FuseChat, 2402.16107, section 3.2).

Deviations. A voice is judged in nats a byte, since longer tokens have larger losses; the papers' code takes the mean
over its own tokens (``score="token"``). AvgCE's weights are the softmax of minus the loss of a
token of the student's length; the code takes the softmax of exp(-loss), which is nearly the same for all. A choice is
made for a whole text or, with ``level="token"``, for each stretch between bytes where both tokenizers have a border.
What a teacher holds likely outside its k stays in the rest. Where the chosen voice is silent, nothing is taught; the
code teaches one token with certainty (``unaligned="onehot"``; FuseLLM's takes the wrong one, the current), and
``"next"`` hears the best of those who speak. Inside its own tokens a teacher speaks too (`remodeler.fusion.inside`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remodeler.errors import InputError
from remodeler.fusion.corpus import Read
from remodeler.fusion.teacher_predictions import Voice, heard
from remodeler.fusion.vocabularies import Collide, carry
from remodeler.model.logprobs import TopK
from remodeler.training.teacher_store import Extras

FUSIONS = ("mince", "avgce")


@dataclass(frozen=True)
class Rules:
    """How voices become one."""

    fusion: str = "mince"
    level: str = "sequence"
    score: str = "byte"
    unaligned: str = "skip"
    collide: Collide = "sum"
    rest: bool = True
    """Keep the mass outside the k; the papers' code drops it and makes the k sum to 1."""

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"--{name} {getattr(self, name)!r} is not known: choose {', '.join(allowed)}")


ALLOWED = {
    "fusion": FUSIONS,
    "level": ("sequence", "token"),
    "score": ("byte", "token"),
    "unaligned": ("skip", "next", "onehot"),
    "collide": ("sum", "first"),
}


# Which voice counts ---------------------------------------------------------------------------------------------------


def weights(student: Read, voices: Sequence[Voice], rules: Rules, text: int) -> np.ndarray:
    """How much each voice counts at the student's scored positions of a text: [positions, voices], sums 1 or 0."""
    there = np.stack([each.rows[text] >= 0 for each in voices], 1)
    if rules.level == "token":
        costs = np.stack([stretches(student, each, text) for each in voices], 1)
    else:
        costs = np.broadcast_to(np.array([each.cost(rules.score, text) for each in voices]), there.shape)
    if rules.fusion == "avgce":
        length = student.bytes[text] / max(1, len(there)) if rules.score == "byte" else 1.0
        parts = np.exp(-(costs - costs.min(1, keepdims=True)) * length) * there
        return np.asarray(parts / np.maximum(parts.sum(1, keepdims=True), 1e-300))
    judged = np.where(there, costs, np.inf) if rules.level == "token" or rules.unaligned == "next" else costs
    return np.asarray(np.eye(len(voices))[judged.argmin(1)] * there)


def stretches(student: Read, each: Voice, text: int) -> np.ndarray:
    """Nats a byte from every position of the student to the next that the voice has too: [positions]."""
    rows, places = each.rows[text], student.positions[text]
    found = np.full(len(rows), np.inf)
    deep = np.zeros(len(rows), np.int64) if each.depths is None else each.depths[text]
    borders = np.flatnonzero((rows >= 0) & (deep == 0))
    if not len(borders):
        return found
    sums = np.concatenate([[0.0], each.of(text).double().numpy().cumsum()])
    first = rows[borders]
    nats = np.diff([*sums[first], sums[-1]])
    cut = student.cuts[text]
    size = np.diff([*cut.ends[places[borders]], cut.ends[places[-1] + 1]])
    found[borders] = nats / np.maximum(size, 1)
    return np.where(rows >= 0, found[np.arange(len(rows)) - deep], np.inf)


# The target -----------------------------------------------------------------------------------------------------------


Facts = Callable[[Read, Sequence[Voice], np.ndarray, int, int], Extras]
"""Of the student's texts from one number up to another, by the voice that is heard at each scored position."""


@dataclass(frozen=True)
class Fused:
    """Targets for the student's windows, computed a few windows at a time."""

    student: Read
    voices: Sequence[Voice]
    rules: Rules
    size: int
    """Of the student's vocabulary."""
    facts: Facts | None = None
    """What else a loss wants to know of a position; of the best voice only."""

    def __call__(self, start: int, stop: int) -> tuple[TopK, Extras]:
        """Targets at the scored positions of some windows."""
        counted = np.concatenate([weights(self.student, self.voices, self.rules, text) for text in range(start, stop)])
        said = [heard(each, self.student, start, stop, self.size, self.rules.collide) for each in self.voices]
        if self.rules.fusion == "mince":
            best = counted.argmax(1)
            picked = TopK(*(_picked([getattr(each, name) for each in said], torch.from_numpy(best)) for name in PARTS))
            extras = self.facts(self.student, self.voices, best, start, stop) if self.facts else {}
            return self._finished(picked, torch.from_numpy(counted.sum(1) > 0), start, stop), extras
        logs = torch.from_numpy(counted).float().log()
        ids = torch.cat([each.ids for each in said], 1)
        logprobs = torch.cat([each.logprobs + logs[:, [n]] for n, each in enumerate(said)], 1)
        rest = torch.stack([each.rest + logs[:, n] for n, each in enumerate(said)]).logsumexp(0)
        mixed = carry(TopK(ids, logprobs, rest), torch.arange(self.size), self.size)
        return self._finished(mixed, torch.from_numpy(counted.sum(1) > 0), start, stop), {}

    def _finished(self, top: TopK, known: Tensor, start: int, stop: int) -> TopK:
        """Rows without a voice are empty, or certain of what came; where asked, the k sum to 1."""
        logprobs = top.logprobs.masked_fill(~known[:, None], -math.inf)
        rest = top.rest.masked_fill(~known, 0.0)
        if not self.rules.rest:
            whole = logprobs.logsumexp(1, keepdim=True)
            some = known & (whole[:, 0] > -math.inf)
            logprobs = torch.where(some[:, None], logprobs - whole, logprobs)
            rest = rest.masked_fill(some, -math.inf)
        if self.rules.unaligned == "skip":
            return TopK(top.ids, logprobs, rest)
        windows = self.student.windows
        came = windows.targets[start:stop].flatten()
        return certain(TopK(top.ids, logprobs, rest), came[came >= 0], ~known, self.size)


PARTS = ("ids", "logprobs", "rest")


def _picked(rows: Sequence[Tensor], best: Tensor) -> Tensor:
    """At every position the row of one voice; narrower ones are of the same width already."""
    return torch.stack(list(rows))[best, torch.arange(len(best))]


def certain(top: TopK, came: Tensor, where: Tensor, size: int) -> TopK:
    """Some rows are sure of one token."""
    others = (came[:, None] + torch.arange(top.ids.shape[1])) % size  # distinct, the token itself first
    sure = torch.full_like(top.logprobs, -math.inf)
    sure[:, 0] = 0.0
    return TopK(
        torch.where(where[:, None], others, top.ids),
        torch.where(where[:, None], sure, top.logprobs),
        torch.where(where, torch.full_like(top.rest, -math.inf), top.rest),
    )


def told(rules: Rules, voices: Sequence[Voice], student: Read) -> dict[str, Any]:
    """By voice the share of positions that it has, its nats a byte, and how often it is the one that counts."""
    count = len(student.positions)
    chosen = np.concatenate([weights(student, voices, rules, text) for text in range(count)]).mean(0)
    return {
        each.name: {
            "coverage": each.coverage,
            "bits_per_byte": float(each.losses.sum() / math.log(2) / each.bytes.sum()),
            "weight": float(chosen[place]),
        }
        for place, each in enumerate(voices)
    }
