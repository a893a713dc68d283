"""Difficulty: how much a response has to change, and the labels that follow from it.

Three measures by the warm-up reviser: ``gain``, how much likelier it holds the better answer than a copy (nats per
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

from remodeler.alignment.config import MEASURES, LabelConfig
from remodeler.alignment.data.examples import revision_row
from remodeler.alignment.data.preferences import Triple, order_key
from remodeler.alignment.data.template import MAJOR, MINOR, NONE, Template
from remodeler.alignment.reviser.scoring import mean_logprobs
from remodeler.checkpoint.load import Checkpoint

MOST = 700.0
"""Nats per token, beyond which a float can't hold a perplexity."""


@dataclass(frozen=True)
class Difficulty:
    """Difficulty of revising the rejected answer of a triple, by each measure."""

    gain: float
    perplexity: float
    edit: float


@dataclass(frozen=True)
class LabelledExample:
    """A response, what it should become, and how much has to change."""

    prompt: str
    response: str
    better: str
    label: str


def edit_distance(one: str, two: str) -> float:
    """Levenshtein distance of two texts by words, as a share of the longer: 0 = the same, 1 = nothing in common."""
    return float(Levenshtein.normalized_distance(one.split(), two.split()))


def measure_difficulties(checkpoint: Checkpoint, template: Template, triples: Sequence[Triple]) -> list[Difficulty]:
    """Measure how much the rejected answer of each triple has to change, by the warm-up reviser."""
    goals = [side for each in triples for side in (each.chosen, each.rejected)]
    rows = [
        revision_row(checkpoint, template, each.prompt, each.rejected, goal)
        for each, goal in zip([each for each in triples for _ in range(2)], goals, strict=True)
    ]
    scores = mean_logprobs(checkpoint, rows)
    return [
        Difficulty(better - copy, math.exp(min(MOST, -better)), edit_distance(each.rejected, each.chosen))
        for each, better, copy in zip(triples, scores[::2], scores[1::2], strict=True)
    ]


def major_threshold(found: Sequence[Difficulty], rule: LabelConfig) -> float:
    """The measure from which a revision is MAJOR."""
    return float(np.quantile([getattr(each, rule.difficulty) for each in found], 1 - rule.major_share))


def label_triples(
    triples: Sequence[Triple], found: Sequence[Difficulty], rule: LabelConfig, limit: float, seed: int
) -> list[LabelledExample]:
    """Label every triple, and add better answers that are to stay as they are."""
    examples = [
        LabelledExample(each.prompt, each.rejected, each.chosen, _label(difficulty, rule, limit))
        for each, difficulty in zip(triples, found, strict=True)
    ]
    already = sum(each.label == NONE for each in examples)
    wanted = max(0, round(rule.none_share / (1 - rule.none_share) * (len(examples) - already)) - already)
    good = list(dict.fromkeys((each.prompt, each.chosen) for each in triples))
    chosen = sorted(good, key=lambda pair: order_key(f"{pair[0]}\n{pair[1]}", seed))[:wanted]
    return [*examples, *(LabelledExample(prompt, better, better, NONE) for prompt, better in chosen)]


def _label(found: Difficulty, rule: LabelConfig, limit: float) -> str:
    if rule.gain_floor is not None and found.gain < rule.gain_floor:
        return NONE
    return MAJOR if getattr(found, rule.difficulty) >= limit else MINOR


def label_counts(examples: Sequence[LabelledExample]) -> dict[str, int]:
    """Number of examples by label."""
    return dict(Counter(each.label for each in examples))


def measure_agreement(found: Sequence[Difficulty]) -> dict[str, float]:
    """Rank correlations (Spearman) of the three measures; 0 where one is constant."""
    values = {name: [getattr(each, name) for each in found] for name in MEASURES}
    return {f"{one} and {two}": _correlation(values[one], values[two]) for one, two in combinations(MEASURES, 2)}


def _correlation(one: Sequence[float], two: Sequence[float]) -> float:
    from scipy.stats import spearmanr  # here: a second, and only who trains a reviser asks

    return float(spearmanr(one, two).statistic) if len(set(one)) > 1 and len(set(two)) > 1 else 0.0
