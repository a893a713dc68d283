"""Span: a run of characters of a text, with a score; conversions to and from sets and masks of characters.

Offsets are code points of the Python string, counted from 0, the end excluded. (SemEval-2021 task 5 lists every
character; MUDES gives the last character of a run, which is one less than the end here.)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, order=True)
class Span:
    """Characters ``[start, end)`` of a text, with a score from 0 to 1."""

    start: int
    end: int
    score: float = 1.0


Likely = NDArray[np.floating[Any]]
"""[characters] likelihood that each is inside a span."""
Detector = Callable[[Sequence[str]], list[list[Span]]]
"""Finds the spans of each text: sorted, disjoint, non-empty, inside the text."""


def characters(spans: Iterable[Span]) -> list[int]:
    """Sorted offsets inside the spans, each once."""
    return sorted({place for span in spans for place in range(span.start, span.end)})


def from_characters(places: Iterable[int]) -> list[Span]:
    """Spans of consecutive offsets, given in any order and any number of times."""
    found: list[Span] = []
    for place in sorted(set(places)):
        if found and found[-1].end == place:
            found[-1] = Span(found[-1].start, place + 1)
        else:
            found.append(Span(place, place + 1))
    return found


def mask(spans: Iterable[Span], length: int) -> NDArray[np.bool_]:
    """[length] bool: characters inside a span, for a text of that length."""
    marked = np.zeros(length, dtype=bool)
    for span in spans:
        marked[span.start : span.end] = True
    return marked


def from_mask(marked: NDArray[np.bool_], scores: NDArray[np.floating[Any]] | None = None) -> list[Span]:
    """Spans of marked characters; with ``scores`` [length], each has the mean score of its characters."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False]))))
    pairs = edges.reshape(-1, 2).tolist()
    if scores is None:
        return [Span(start, end) for start, end in pairs]
    return [Span(start, end, float(scores[start:end].mean())) for start, end in pairs]
