"""What must be true of an answer before a policy learns from it: one function each, True where it is not.

``FILTERS`` is in the order in which they are asked; the first that refuses gives the reason that is written down.
"""

from collections.abc import Callable
from dataclasses import dataclass

from remodeler.alignment.config import Limits
from remodeler.alignment.data.template import LABELS, MAJOR, NONE, Template
from remodeler.alignment.reviser.reviser import quality

GRAM = 4


@dataclass(frozen=True)
class Candidate:
    """An answer, and what it was made into."""

    prompt: str
    answer: str
    text: str
    """What would be learned: the answer itself, or its revision."""
    ended: bool
    """``text`` came to its end by itself."""
    label: str | None
    """None where no label was asked for."""
    probabilities: tuple[float, ...] | None
    """Of the answer; None where the reviser could not read it."""
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
        """Of its label; 1 without one."""
        if self.label is None or self.probabilities is None:
            return 1.0
        return self.probabilities[LABELS.index(self.label)]


Filter = Callable[[Candidate, Limits, Template], bool]


def repetition(text: str) -> float:
    """Share of the 4-grams of words that came before in the text."""
    words = text.split()
    grams = [tuple(words[place : place + GRAM]) for place in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _length(each: Candidate, limits: Limits, template: Template) -> bool:
    share = len(each.text) / max(1, len(each.answer))
    return not limits.shortest <= share <= limits.longest


def _marks(each: Candidate, limits: Limits, template: Template) -> bool:
    label = each.text.split("\n", 1)[0].strip()
    return any(mark in each.text for mark in template.marks) or label in template.markers.values()


def _poor(each: Candidate, limits: Limits, template: Template) -> bool:
    return each.label is not None and not each.revised and each.before < limits.quality


def _fell(each: Candidate, limits: Limits, template: Template) -> bool:
    return each.label is not None and each.after is not None and each.after < each.before - limits.slack


def _unsure_major(each: Candidate, limits: Limits, template: Template) -> bool:
    return each.revised and each.label == MAJOR and each.confidence < limits.major


def _kept_unsure(each: Candidate, limits: Limits, template: Template) -> bool:
    return (each.revised or each.label == NONE) and each.confidence < limits.confidence


FILTERS: dict[str, Filter] = {
    "empty": lambda each, limits, template: not each.text.strip(),
    "too long for the reviser": lambda each, limits, template: each.probabilities is None,
    "not ended": lambda each, limits, template: not each.ended,
    "much shorter or longer": _length,
    "marks of the template": _marks,
    "repeats itself": lambda each, limits, template: repetition(each.text) >= limits.repetition,
    "label unsure": _kept_unsure,
    "major, unsure": _unsure_major,
    "quality too low": _poor,
    "quality fell": _fell,
}


def refusal(each: Candidate, limits: Limits, template: Template) -> str | None:
    """Why an answer is not learned from; None where it is."""
    return next((reason for reason, refuses in FILTERS.items() if refuses(each, limits, template)), None)
