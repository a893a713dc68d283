"""Texts with their spans in a report: characters far from every span are left out."""

from collections.abc import Iterator, Sequence
from typing import Any

from remodeler.reporting.figures import Values
from remodeler.reporting.results import Section

MOST_QUOTES, AROUND = 200, 160
"""Number of texts, and of characters on either side of a span."""
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def quotes(rows: Sequence[Values], names: Sequence[str]) -> Section | None:
    """Section with the first texts that have spans, of sides with these names."""
    found = [row for row in rows if row.get("spans")]
    chosen = sorted(found, key=lambda row: (row["number"], row["side"], row["sample"]))[:MOST_QUOTES]
    values = {"quotes": [_quote(row, names) for row in chosen], "found": len(found)}
    return Section("auditing/templates/texts.html.jinja", values) if found else None


def _quote(row: Values, names: Sequence[str]) -> dict[str, Any]:
    """A text in parts, inside and outside spans."""
    number = f"{row['number'] + 1}.{row['sample'] + 1}" if row["sample"] else str(row["number"] + 1)
    return {"of": names[row["side"]], "number": number, "parts": list(_parts(row["text"], row["spans"]))}


def _parts(text: str, spans: Sequence[Sequence[float]]) -> Iterator[tuple[str, float | None]]:
    """Parts of a text with their score, None outside spans; far from every span, text is left out."""
    end = 0
    for place, (start, stop, score) in enumerate(spans):
        yield _shorten(text[end : int(start)], place > 0, True), None
        yield text[int(start) : int(stop)], score
        end = int(stop)
    yield _shorten(text[end:], True, False), None


def _shorten(text: str, after: bool, before: bool) -> str:
    """Shorten the text after a span, before one, or between two."""
    if len(text) <= AROUND * (after + before):
        return text
    first = text[:AROUND].rpartition(" ")[0] if after else ""
    return f"{first} {ELLIPSIS} " + (text[-AROUND:].partition(" ")[2] if before else "")
