"""Span: a run of characters of a text, with a score; and the same as a set or a mask of characters.

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
    """Characters ``[start, end)`` of a text, and how sure one is of them, from 0 to 1."""

    start: int
    end: int
    score: float = 1.0


Likely = NDArray[np.floating[Any]]
"""[characters]: how likely each is inside a span."""
Detector = Callable[[Sequence[str]], list[list[Span]]]
"""Finds the spans of each text: sorted, disjoint, not empty, inside the text."""


def characters(spans: Iterable[Span]) -> list[int]:
    """All offsets inside the spans, each once, in order."""
    return sorted({place for span in spans for place in range(span.start, span.end)})


def of_characters(places: Iterable[int]) -> list[Span]:
    """The runs of consecutive offsets, in whatever order and however often they are given."""
    found: list[Span] = []
    for place in sorted(set(places)):
        if found and found[-1].end == place:
            found[-1] = Span(found[-1].start, place + 1)
        else:
            found.append(Span(place, place + 1))
    return found


def mask(spans: Iterable[Span], length: int) -> NDArray[np.bool_]:
    """[length] bool: which characters of a text of that length are inside a span."""
    marked = np.zeros(length, dtype=bool)
    for span in spans:
        marked[span.start : span.end] = True
    return marked


def of_mask(marked: NDArray[np.bool_], scores: NDArray[np.floating[Any]] | None = None) -> list[Span]:
    """The runs of marked characters; with ``scores`` [length], a run has the mean of its characters' scores."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False]))))
    pairs = edges.reshape(-1, 2).tolist()
    if scores is None:
        return [Span(start, end) for start, end in pairs]
    return [Span(start, end, float(scores[start:end].mean())) for start, end in pairs]
