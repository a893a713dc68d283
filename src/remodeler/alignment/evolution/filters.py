"""Filters of the answers that a policy learns from: one function each, True for an answer that is rejected.

``FILTERS`` is in the order in which they are applied; the first that rejects an answer gives the reason on record.
"""

from collections.abc import Callable
from dataclasses import dataclass

from remodeler.alignment.config import FilterConfig
from remodeler.alignment.data.template import LABELS, MAJOR, NONE, Template
from remodeler.alignment.reviser.reviser import quality

GRAM = 4


@dataclass(frozen=True)
class Candidate:
    """An answer, and its revision where it has one."""

    prompt: str
    answer: str
    text: str
    """Text that would be learned: the answer itself, or its revision."""
    ended: bool
    """``text`` came to its end by itself."""
    label: str | None
    """None where labels are not used."""
    probabilities: tuple[float, ...] | None
    """Label probabilities of the answer; None where the reviser could not read it."""
    after: float | None
    """Quality of a revision."""

    @property
    def before(self) -> float:
        """Quality of the answer."""
        return 0.0 if self.probabilities is None else quality(self.probabilities)

    @property
    def revised(self) -> bool:
        """Whether it is a revision."""
        return self.after is not None

    @property
    def confidence(self) -> float:
        """Probability of its label; 1 without one."""
        if self.label is None or self.probabilities is None:
            return 1.0
        return self.probabilities[LABELS.index(self.label)]


Filter = Callable[[Candidate, FilterConfig, Template], bool]


def repetition(text: str) -> float:
    """Share of the 4-grams of words that came before in the text."""
    words = text.split()
    grams = [tuple(words[place : place + GRAM]) for place in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _wrong_length(each: Candidate, filters: FilterConfig, template: Template) -> bool:
    share = len(each.text) / max(1, len(each.answer))
    return not filters.shortest <= share <= filters.longest


def _has_marks(each: Candidate, filters: FilterConfig, template: Template) -> bool:
    label = each.text.split("\n", 1)[0].strip()
    return any(mark in each.text for mark in template.marks) or label in template.markers.values()


def _low_quality(each: Candidate, filters: FilterConfig, template: Template) -> bool:
    return each.label is not None and not each.revised and each.before < filters.min_quality


def _worse(each: Candidate, filters: FilterConfig, template: Template) -> bool:
    return each.label is not None and each.after is not None and each.after < each.before - filters.quality_slack


def _unsure_major(each: Candidate, filters: FilterConfig, template: Template) -> bool:
    return each.revised and each.label == MAJOR and each.confidence < filters.major_confidence


def _unsure_label(each: Candidate, filters: FilterConfig, template: Template) -> bool:
    return (each.revised or each.label == NONE) and each.confidence < filters.min_confidence


FILTERS: dict[str, Filter] = {
    "empty": lambda each, filters, template: not each.text.strip(),
    "too long for the reviser": lambda each, filters, template: each.probabilities is None,
    "not ended": lambda each, filters, template: not each.ended,
    "much shorter or longer": _wrong_length,
    "marks of the template": _has_marks,
    "repeats itself": lambda each, filters, template: repetition(each.text) >= filters.max_repetition,
    "label unsure": _unsure_label,
    "major, unsure": _unsure_major,
    "quality too low": _low_quality,
    "quality fell": _worse,
}


def rejection(each: Candidate, filters: FilterConfig, template: Template) -> str | None:
    """The reason why an answer is not learned from; None where it is."""
    return next((reason for reason, rejects in FILTERS.items() if rejects(each, filters, template)), None)
