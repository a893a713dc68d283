"""Calibration of a reviser's label probabilities, and how well its quality separates good answers from bad ones.

Reliability (Guo et al. 2017, arXiv 1706.04599, equation 5): predictions in bins of equal width by their confidence; in
each the share that was right should be the mean confidence. The expected calibration error is the mean gap, weighted by
the predictions of each bin. Confidence is the probability of the most likely label.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from remodeler.alignment.data.template import LABELS
from remodeler.evaluation.bootstrap import interval

BINS = 10
DRAWS = 1000


@dataclass(frozen=True)
class Bin:
    """Predictions of like confidence."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidence: Sequence[float], right: Sequence[bool], bins: int = BINS) -> list[Bin]:
    """Bins ``(low, high]`` that hold predictions."""
    sure, good = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    places = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    return [
        Bin(place / bins, (place + 1) / bins, int(own.sum()), float(sure[own].mean()), float(good[own].mean()))
        for place in range(bins)
        if (own := places == place).any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean gap of confidence and accuracy, by predictions."""
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / total


def roc_area(good: Sequence[float], bad: Sequence[float]) -> float:
    """Probability that a good answer has the higher score, ties as half: the area under the ROC curve.

    As ``scipy.stats.mannwhitneyu`` counts it, which finds a p-value too and takes up to 200 times as long.
    """
    order = np.sort(np.asarray(bad, dtype=float))
    below, up_to = np.searchsorted(order, good, "left"), np.searchsorted(order, good, "right")
    return float((below + up_to).mean() / 2 / len(order))


def roc_area_interval(good: Sequence[float], bad: Sequence[float], seed: int) -> dict[str, float]:
    """The area with its 95 % interval: triples drawn with replacement, both their answers together."""
    low, high = interval(roc_area, (np.asarray(good), np.asarray(bad)), DRAWS, np.random.default_rng(seed))
    return {"value": roc_area(good, bad), "low": low, "high": high}


def label_metrics(probabilities: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy, calibration and confusion of label probabilities [examples, labels]."""
    truth = np.array([LABELS.index(label) for label in labels])
    predicted = probabilities.argmax(1)
    confidence, right = probabilities.max(1), predicted == truth
    bins = reliability(confidence.tolist(), right.tolist())
    table = [
        [int(((truth == one) & (predicted == two)).sum()) for two in range(len(LABELS))] for one in range(len(LABELS))
    ]
    return {
        "examples": len(truth),
        "accuracy": float(right.mean()),
        "chance": float(max(np.bincount(truth)) / len(truth)),
        "calibration_error": calibration_error(bins),
        "nll": float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-30)).mean()),
        "reliability": [asdict(each) for each in bins],
        "confusion": table,
    }
