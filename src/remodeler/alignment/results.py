"""Parts of pages and cards that several alignment verbs share: revised texts, word by word, and a caution."""

from collections.abc import Sequence
from typing import Any

from remodeler.reporting.figures import Values, decimal, number
from remodeler.reporting.results import Section

TAGS = ("alignment", "self-evolution", "remodeler")
CAUTION = (
    "A reviser's score does not measure truth: it reflects the preferences that it was trained on, and a policy that "
    "it guided inherits its mistakes. Read answers before you rely on a score."
)
HERE = "alignment/templates"
MOST = 100
"""Texts that are shown."""


def share_of(value: float) -> str:
    """A share in percent: 12.3%."""
    return f"{value:.1%}"


def score_or_count(value: Any) -> str:
    """A score between 0 and 1 in three digits behind the point, or a whole number; nothing where there is none."""
    found = number(value)
    return "" if found is None else f"{found:.3f}" if found <= 1 else decimal(round(found))


def revised_texts(rows: Sequence[Values]) -> Section | None:
    """Changes in texts that a reviser has read, word by word."""
    changed = [row for row in rows if row.get("difference") and _before_and_after(row)[0] != _before_and_after(row)[1]]
    values = {"texts": [_text(row) for row in changed[:MOST]], "changed": len(changed), "all": len(rows)}
    return Section(f"{HERE}/texts.html.jinja", values) if changed else None


def _before_and_after(row: Values) -> tuple[str, str]:
    return str(row.get("response", row.get("answer"))), str(row.get("revision", row.get("text")))


def _text(row: Values) -> dict[str, Any]:
    """One text: its label with all probabilities, whether it was learned from, and its words in parts."""
    known = row.get("probabilities") or {}
    sure = ", ".join(f"{label} {value:.2f}" for label, value in known.items())
    learned = "" if "accepted" not in row else f"not learned: {row['reason']}" if row["reason"] else "learned"
    return {
        "of": " ".join(each for each in (row["of"], str(row["number"] + 1)) if each),
        "label": row.get("label") or "",
        "sure": sure,
        "learned": learned,
        "prompt": row["prompt"],
        "parts": row["difference"],
    }
