"""Rules that make spans of likelihoods of characters, and the thresholds that score best on a development set.

Post-processing as in related work: strip white space at the ends of a run (the organisers' cleaner), extend runs to
whole words (Lone Pine), drop short runs (the organisers' cleaner drops those of one or two characters).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from remodeler.auditing.spans import Likely, Span, from_mask
from remodeler.auditing.statistics.scoring import scores

WORD = re.compile(r"[\w'’]+")
GRID = tuple(round(float(each), 2) for each in np.arange(0.2, 0.81, 0.02))
"""Candidate thresholds."""


@dataclass(frozen=True)
class Rules:
    """How spans are made of likelihoods; a part of ``tagger.json``."""

    decode: str = "threshold"
    """``threshold``, or ``viterbi``: the most likely tag sequence, whose likelihoods are 0 and 1."""
    threshold: float = 0.5
    """Minimum likelihood of a character inside a span."""
    abstain: float = 0.0
    """A text without a character of this likelihood has no spans."""
    fill: bool = True
    """Include characters between two pieces that are inside."""
    trim: bool = True
    """Strip white space at the ends of a run."""
    words: bool = False
    """Extend a run to whole words."""
    shortest: int = 1
    """Minimum number of characters of a run."""


def spans_of(likely: Likely, text: str, rules: Rules) -> list[Span]:
    """Spans of a text; their score is the mean likelihood of their characters."""
    marked = likely >= rules.threshold
    if not marked.any() or likely.max() < rules.abstain:
        return []
    runs = from_mask(marked)
    if rules.words:
        runs = from_mask(_extend_to_words(marked, text))
    if rules.trim:
        runs = [_strip(run, text) for run in runs]
    return [
        replace(run, score=round(float(likely[run.start : run.end].mean()), 4))
        for run in runs
        if run.end - run.start >= rules.shortest
    ]


def _extend_to_words(marked: NDArray[np.bool_], text: str) -> NDArray[np.bool_]:
    grown = marked.copy()
    for word in WORD.finditer(text):
        grown[word.start() : word.end()] |= marked[word.start() : word.end()].any()
    return grown


def _strip(run: Span, text: str) -> Span:
    inside = text[run.start : run.end]
    start = run.start + len(inside) - len(inside.lstrip())
    return Span(start, max(start, run.end - (len(inside) - len(inside.rstrip()))))


def tune(likely: Sequence[Likely], texts: Sequence[str], gold: Sequence[Sequence[Span]], rules: Rules) -> Rules:
    """Choose the threshold and the abstention that score best together.

    Ties: the lowest abstention, then the threshold nearest to 0.5. Viterbi has no thresholds.
    """
    if rules.decode == "viterbi" or not texts:
        return rules
    most = np.array([one.max(initial=0.0) for one in likely])
    abstained = np.array([float(not spans) for spans in gold])
    found: dict[tuple[float, float, float], Rules] = {}
    for threshold in GRID:
        now = replace(rules, threshold=threshold, abstain=0.0)
        values = np.array(scores([spans_of(*each, now) for each in zip(likely, texts, strict=True)], gold))
        for abstain in (0.0, *(each for each in GRID if each > threshold)):
            value = float(np.where(most >= abstain, values, abstained).mean())
            found[round(value, 9), -abstain, -abs(threshold - 0.5)] = replace(now, abstain=abstain)
    return found[max(found)]
