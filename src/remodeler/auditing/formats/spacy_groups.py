"""Convert spans to and from spaCy's ``doc.spans``; takes its objects, but does not import spaCy."""

from collections.abc import Iterable, Sequence
from typing import Any

from remodeler.auditing.formats.conll import LABEL
from remodeler.auditing.formats.span_lists import merge_overlaps
from remodeler.auditing.spans import Span

KEY = "toxic"


def to_doc(doc: Any, spans: Sequence[Span], key: str = KEY, label: str = LABEL) -> Any:
    """Put spans into ``doc.spans[key]``, with their scores in ``attrs["scores"]`` as spancat does; return the group.

    A span that begins or ends inside a token is extended to the whole token.
    """
    doc.spans[key] = [doc.char_span(each.start, each.end, label=label, alignment_mode="expand") for each in spans]
    doc.spans[key].attrs["scores"] = [each.score for each in spans]
    return doc.spans[key]


def from_group(group: Iterable[Any], scores: Sequence[float] | None = None) -> list[Span]:
    """Spans of a group, or of any objects with ``start_char`` and ``end_char``; with their scores, if any.

    Spans that overlap are merged.
    """
    entries = list(group)
    found = getattr(group, "attrs", {}).get("scores") if scores is None else scores
    values = [1.0] * len(entries) if found is None else [float(each) for each in found]
    return merge_overlaps(
        [Span(each.start_char, each.end_char, score) for each, score in zip(entries, values, strict=True)]
    )
