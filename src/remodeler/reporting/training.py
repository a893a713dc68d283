"""The loss curve of ``training.jsonl`` as a reader sees it. Any key of a line may be missing."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remodeler.reporting.figures import number
from remodeler.reporting.plots import loss_svg
from remodeler.reporting.results import Section
from remodeler.reporting.sections import figure, log_lines

TRAINING_FILE = "training.jsonl"
SMOOTHING = 30
"""The curve is averaged over about this part of all steps."""
MOST_POINTS = 1500
"""Drawn of a longer curve: as many as a page is wide, and more than it can show."""

ALONE = "The loss of every step and its running average."
BOTH = "Left, the loss of every step and its running average; right, perplexity on a part of the held-out text."

Values = Mapping[str, Any]
Points = list[tuple[float, float]]


def loss_curve(folder: Path) -> Section | None:
    """The loss of a run that left its curve in a folder."""
    shown = summary(log_lines(folder / TRAINING_FILE))
    return figure("While it trained", shown["figure"], shown["caption"]) if shown else None


def summary(lines: Sequence[Values]) -> dict[str, str] | None:
    """The figure of a run and the words below it, if it has two steps."""
    losses = points(lines, "loss")
    if len(losses) < 2:
        return None
    heldout = [(step, math.exp(loss)) for step, loss in points(lines, "heldout") if loss < 700]
    heldout = heldout if len(heldout) > 1 else []
    drawn = loss_svg(thinned(losses), thinned(smooth(losses)), heldout)
    return {"figure": drawn, "caption": BOTH if heldout else ALONE}


def points(lines: Sequence[Values], key: str) -> Points:
    """(step, value) of the lines that have both."""
    pairs = [(number(line.get("step")), number(line.get(key))) for line in lines]
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def smooth(curve: Points) -> Points:
    """An exponential average, corrected for its start: the first point is the curve's own."""
    keep = 1 - 1 / max(1.0, len(curve) / SMOOTHING)
    found, total, weight = [], 0.0, 0.0
    for step, value in curve:
        total, weight = keep * total + value, keep * weight + 1
        found.append((step, total / weight))
    return found


def thinned(curve: Points) -> Points:
    """Evenly spaced points of a long curve, its last among them."""
    every = math.ceil(len(curve) / MOST_POINTS)
    return curve[::-1][::every][::-1]
