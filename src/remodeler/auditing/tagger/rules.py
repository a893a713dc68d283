"""Rules: from how likely every character is inside to spans; and the thresholds that a development set likes best.

Post-processing as peers do it: white space at the ends of a run goes (the organisers' cleaner), a run may grow to whole
words (Lone Pine), and short runs may go (the organisers' cleaner drops those of one or two characters).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from remodeler.auditing.spans import Likely, Span, of_mask
from remodeler.auditing.statistics.scoring import scores
from remodeler.errors import InputError

WORD = re.compile(r"[\w'’]+")
DECODERS = ("threshold", "viterbi")
GRID = tuple(round(float(each), 2) for each in np.arange(0.2, 0.81, 0.02))
"""Thresholds that are tried."""


@dataclass(frozen=True)
class Rules:
    """How spans are made of what is believed of characters."""

    decode: str = "threshold"
    """``threshold``, or ``viterbi``: the best tags as a whole, of which every character is sure."""
    threshold: float = 0.5
    """A character is inside when it is at least so likely."""
    abstain: float = 0.0
    """A text has no spans when none of its characters is so likely."""
    fill: bool = True
    """Characters between two pieces that are inside are inside."""
    trim: bool = True
    """White space at the ends of a run goes."""
    words: bool = False
    """A run grows to the whole words that it touches."""
    shortest: int = 1
    """Characters that a run must have."""

    def __post_init__(self) -> None:
        if self.decode not in DECODERS:
            raise InputError(f"--decode {self.decode!r} is not known: choose {', '.join(DECODERS)}")
        for name in ("threshold", "abstain"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name} {getattr(self, name)} was given, 0 to 1 was expected: choose such a number")
        if self.shortest < 1:
            raise InputError(f"--shortest {self.shortest} was given, at least 1 was expected: raise it")


def spans_of(likely: Likely, text: str, rules: Rules) -> list[Span]:
    """The spans of a text; the score of one is the mean likelihood of its characters."""
    marked = likely >= rules.threshold
    if not marked.any() or likely.max() < rules.abstain:
        return []
    runs = of_mask(marked)
    if rules.words:
        runs = of_mask(_grown(marked, text))
    if rules.trim:
        runs = [_trimmed(run, text) for run in runs]
    return [
        replace(run, score=round(float(likely[run.start : run.end].mean()), 4))
        for run in runs
        if run.end - run.start >= rules.shortest
    ]


def _grown(marked: NDArray[np.bool_], text: str) -> NDArray[np.bool_]:
    grown = marked.copy()
    for word in WORD.finditer(text):
        grown[word.start() : word.end()] |= marked[word.start() : word.end()].any()
    return grown


def _trimmed(run: Span, text: str) -> Span:
    inside = text[run.start : run.end]
    start = run.start + len(inside) - len(inside.lstrip())
    return Span(start, max(start, run.end - (len(inside) - len(inside.rstrip()))))


def tuned(likely: Sequence[Likely], texts: Sequence[str], gold: Sequence[Sequence[Span]], rules: Rules) -> Rules:
    """The rules with the threshold and the abstention that together score best.

    Of equal ones, the least abstention, then the threshold nearest to a half. Viterbi has no thresholds.
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
