"""The official score of SemEval-2021 task 5: mean over posts of the character F1.

A post without gold characters scores 1 when none are predicted and else 0; a post with some, for which none are
predicted, scores 0. The standard error is that of the mean (ddof 1), as in the organisers' script.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from remodeler.auditing.spans import Span, characters
from remodeler.errors import InputError

LENGTHS = (50, 100, 200, 400)
"""Limits between groups of posts by length, in characters."""


@dataclass(frozen=True)
class Score:
    """Mean F1 of some posts, its standard error (0 for a single post), and their number."""

    f1: float
    error: float
    posts: int


def f1(predicted: Sequence[Span], gold: Sequence[Span]) -> float:
    """Character F1 of one post."""
    ours, theirs = set(characters(predicted)), set(characters(gold))
    if not theirs or not ours:
        return float(ours == theirs)
    return 2 * len(ours & theirs) / (len(ours) + len(theirs))


def scores(predicted: Sequence[Sequence[Span]], gold: Sequence[Sequence[Span]]) -> list[float]:
    """F1 of every post."""
    if len(predicted) != len(gold):
        raise InputError(f"{len(predicted)} posts are predicted and {len(gold)} have gold spans: give the same posts")
    return [f1(ours, theirs) for ours, theirs in zip(predicted, gold, strict=True)]


def summary(found: Sequence[float]) -> Score:
    """Mean and standard error of the F1 of some posts."""
    if not found:
        return Score(0.0, 0.0, 0)
    error = float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 0.0
    return Score(float(np.mean(found)), error, len(found))


def score(predicted: Sequence[Sequence[Span]], gold: Sequence[Sequence[Span]]) -> Score:
    """The official score of predictions in the order of the gold spans."""
    return summary(scores(predicted, gold))


def breakdown(found: Sequence[float], gold: Sequence[Sequence[Span]], texts: Sequence[str] = ()) -> dict[str, Score]:
    """Scores of all posts, of those with and without gold spans and, where texts are given, by length."""
    parts: dict[str, Callable[[int], bool]] = {
        "all posts": lambda place: True,
        "with gold spans": lambda place: bool(gold[place]),
        "without gold spans": lambda place: not gold[place],
    }
    if texts:
        parts |= {name: _between(texts, low, high) for name, low, high in _buckets()}
    rows = {name: [value for place, value in enumerate(found) if holds(place)] for name, holds in parts.items()}
    return {name: summary(values) for name, values in rows.items()}


def _buckets() -> list[tuple[str, int, float]]:
    edges = [0, *LENGTHS]
    within = [(f"{low + 1} to {high} characters", low, float(high)) for low, high in zip(edges, LENGTHS, strict=False)]
    return [*within, (f"over {LENGTHS[-1]} characters", LENGTHS[-1], float("inf"))]


def _between(texts: Sequence[str], low: int, high: float) -> Callable[[int], bool]:
    return lambda place: low < len(texts[place]) <= high
