"""How much a response has to change, and the labels that follow.

Three measures by the warm-up reviser: ``gain``, how much likelier it holds the better answer than a copy (nats a
token); ``perplexity`` of the better answer; and ``edit``, the word edit distance between the two, from 0 to 1.
Thresholds come from the triples that are learned from, and nowhere else.

The paper's rule is not known to us beyond its name. Ours: of the triples, those above a quantile of one measure are
MAJOR and the others MINOR; NONE is what the better answers themselves get. On real corrections edit distances are
either 0 or near 0.9 (805 of Aligner's), so likelihoods are the default, and reports say how far the measures agree.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from rapidfuzz.distance import Levenshtein

from remodeler.alignment.config import MEASURES, Rule
from remodeler.alignment.data.examples import revision
from remodeler.alignment.data.preferences import Triple, ordered
from remodeler.alignment.data.template import MAJOR, MINOR, NONE, Template
from remodeler.alignment.reviser.scoring import mean_logprobs
from remodeler.checkpoint.load import Checkpoint

MOST = 700.0
"""Nats a token, beyond which a float can't hold a perplexity."""


@dataclass(frozen=True)
class Difficulty:
    """Of the revision of one triple."""

    gain: float
    perplexity: float
    edit: float


@dataclass(frozen=True)
class Labelled:
    """A response, what it should become, and how much has to change."""

    prompt: str
    response: str
    better: str
    label: str


def edit_distance(one: str, two: str) -> float:
    """Levenshtein distance of two texts by words, as a share of the longer: 0 the same, 1 nothing in common."""
    return float(Levenshtein.normalized_distance(one.split(), two.split()))


def difficulties(checkpoint: Checkpoint, template: Template, triples: Sequence[Triple]) -> list[Difficulty]:
    """By the warm-up reviser."""
    goals = [side for each in triples for side in (each.chosen, each.rejected)]
    rows = [
        revision(checkpoint, template, each.prompt, each.rejected, goal)
        for each, goal in zip([each for each in triples for _ in range(2)], goals, strict=True)
    ]
    scores = mean_logprobs(checkpoint, rows)
    return [
        Difficulty(better - copy, math.exp(min(MOST, -better)), edit_distance(each.rejected, each.chosen))
        for each, better, copy in zip(triples, scores[::2], scores[1::2], strict=True)
    ]


def threshold(found: Sequence[Difficulty], rule: Rule) -> float:
    """The measure from which a revision is MAJOR."""
    return float(np.quantile([getattr(each, rule.measure) for each in found], 1 - rule.major))


def labelled(
    triples: Sequence[Triple], found: Sequence[Difficulty], rule: Rule, limit: float, seed: int
) -> list[Labelled]:
    """Every triple with its label, and better answers that are to stay as they are."""
    made = [
        Labelled(each.prompt, each.rejected, each.chosen, _label(difficulty, rule, limit))
        for each, difficulty in zip(triples, found, strict=True)
    ]
    already = sum(each.label == NONE for each in made)
    wanted = max(0, round(rule.none / (1 - rule.none) * (len(made) - already)) - already)
    good = list(dict.fromkeys((each.prompt, each.chosen) for each in triples))
    chosen = sorted(good, key=lambda pair: ordered(f"{pair[0]}\n{pair[1]}", seed))[:wanted]
    return [*made, *(Labelled(prompt, better, better, NONE) for prompt, better in chosen)]


def _label(found: Difficulty, rule: Rule, limit: float) -> str:
    if rule.floor is not None and found.gain < rule.floor:
        return NONE
    return MAJOR if getattr(found, rule.measure) >= limit else MINOR


def counts(examples: Sequence[Labelled]) -> dict[str, int]:
    """How many there are of each label."""
    return dict(Counter(each.label for each in examples))


def agreement(found: Sequence[Difficulty]) -> dict[str, float]:
    """Rank correlations (Spearman) of the three measures; 0 where one is constant."""
    values = {name: [getattr(each, name) for each in found] for name in MEASURES}
    return {f"{one} and {two}": _correlation(values[one], values[two]) for one, two in combinations(MEASURES, 2)}


def _correlation(one: Sequence[float], two: Sequence[float]) -> float:
    from scipy.stats import spearmanr  # here: a second, and only who trains a reviser asks

    return float(spearmanr(one, two).statistic) if len(set(one)) > 1 and len(set(two)) > 1 else 0.0
