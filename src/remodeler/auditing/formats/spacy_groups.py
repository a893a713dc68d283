"""Spans to and from spaCy's ``doc.spans``; spaCy itself is not needed, its objects are."""

from collections.abc import Iterable, Sequence
from typing import Any

from remodeler.auditing.formats.conll import LABEL
from remodeler.auditing.formats.span_lists import united
from remodeler.auditing.spans import Span

KEY = "toxic"


def to_doc(doc: Any, spans: Sequence[Span], key: str = KEY, label: str = LABEL) -> Any:
    """Put spans into ``doc.spans[key]``, with their scores in ``attrs["scores"]`` as spancat does; the group.

    A span that begins or ends inside a token grows to the whole token.
    """
    doc.spans[key] = [doc.char_span(each.start, each.end, label=label, alignment_mode="expand") for each in spans]
    doc.spans[key].attrs["scores"] = [each.score for each in spans]
    return doc.spans[key]


def of_group(group: Iterable[Any], scores: Sequence[float] | None = None) -> list[Span]:
    """The spans of a group, or of any objects with ``start_char`` and ``end_char``; their own scores, if any.

    Those of a group may overlap; such ones are united.
    """
    entries = list(group)
    found = getattr(group, "attrs", {}).get("scores") if scores is None else scores
    values = [1.0] * len(entries) if found is None else [float(each) for each in found]
    return united([Span(each.start_char, each.end_char, score) for each, score in zip(entries, values, strict=True)])
