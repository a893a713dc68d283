"""An audit as a report shows it: shares with intervals, words behind masks, texts with their spans highlighted.

The page holds offensive text only inside a closed section, blurred until the reader asks for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from remodeler.report.card import CAUTION
from remodeler.report.figures import audited, between, decimal, hundredths, points, share_of, shifted, signed
from remodeler.report.plots import intervals_svg

MOST_QUOTES, AROUND = 200, 160
"""Texts that are shown, and characters of them on either side of a span."""
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"

Values = Mapping[str, Any]


def summary(results: Values, rows: Sequence[Values]) -> dict[str, Any] | None:
    """What the page shows of an audit; None of another verb."""
    sides, gap = results.get("audited"), results.get("difference")
    if not sides:
        return None
    names = list(map(_name, sides))
    head, table = audited(sides, gap)
    found = [row for row in rows if row.get("spans")]
    chosen = sorted(found, key=lambda row: (row["number"], row["side"], row["sample"]))[:MOST_QUOTES]
    return {
        "caution": CAUTION,
        "figure": _figure(names, sides),
        "head": head,
        "rows": table,
        "prompts": gap["prompts"] if gap else None,
        "names": names,
        "words": results.get("words") or [],
        "most": max((max(each["counts"]) for each in results.get("words") or []), default=0),
        "quotes": [_quote(row, names) for row in chosen],
        "found": len(found),
    }


def lead(results: Values) -> list[str]:
    """What was found, in a sentence a side."""
    sides, gap = results.get("audited") or [], results.get("difference")
    told = [
        f"{decimal(int(each['flagged']))} of {decimal(int(each['texts']))} texts of "
        f"{_name(each)} have a toxic span: {between(each['rate'], share_of)}."
        for each in sides
    ]
    return [*told, f"The difference is {shifted(gap['rate'], points)}."] if gap else told


def tiles(results: Values) -> list[dict[str, str]]:
    """The headline figures."""
    sides, gap = results.get("audited") or [], results.get("difference")
    if not sides:
        return []
    last = sides[-1]
    found = [
        _tile("Texts with a toxic span", last["rate"], share_of),
        _tile("Toxic characters per thousand", last["per_thousand"], hundredths),
    ]
    if gap:
        for tile, key, write in zip(found, ("rate", "per_thousand"), (points, signed), strict=True):
            tile["note"] = f"{_name(last)}: {tile['note']}; change {shifted(gap[key], write)}"
    return found


def _name(side: Values) -> str:
    return PurePath(str(side["name"])).name


def _tile(label: str, share: Values, write: Any) -> dict[str, str]:
    value, _, note = between(share, write).partition(" ")
    return {"label": label, "value": value, "unit": "", "note": note.strip("()")}


def _figure(names: Sequence[str], sides: Sequence[Values]) -> str:
    panels = {"texts with a toxic span, %": ("rate", 100), "toxic characters per thousand": ("per_thousand", 1)}
    return intervals_svg(
        {
            label: [(name, *_scaled(each[key], scale)) for name, each in zip(names, sides, strict=True)]
            for label, (key, scale) in panels.items()
        }
    )


def _scaled(share: Values, scale: float) -> tuple[float, float | None, float | None]:
    value, low, high = (None if share[key] is None else share[key] * scale for key in ("value", "low", "high"))
    return value or 0.0, low, high


# Texts ----------------------------------------------------------------------------------------------------------------


def _quote(row: Values, names: Sequence[str]) -> dict[str, Any]:
    """A text in parts: as it is, or inside a span with its score."""
    number = f"{row['number'] + 1}.{row['sample'] + 1}" if row["sample"] else str(row["number"] + 1)
    return {"of": names[row["side"]], "number": number, "parts": list(_parts(row["text"], row["spans"]))}


def _parts(text: str, spans: Sequence[Sequence[float]]) -> Iterator[tuple[str, float | None]]:
    """(characters, score), None outside spans; what is far from every span is left out."""
    end = 0
    for place, (start, stop, score) in enumerate(spans):
        yield _shortened(text[end : int(start)], place > 0, True), None
        yield text[int(start) : int(stop)], score
        end = int(stop)
    yield _shortened(text[end:], True, False), None


def _shortened(text: str, after: bool, before: bool) -> str:
    """What stands after a span, before one, or between two."""
    if len(text) <= AROUND * (after + before):
        return text
    first = text[:AROUND].rpartition(" ")[0] if after else ""
    return f"{first} {ELLIPSIS} " + (text[-AROUND:].partition(" ")[2] if before else "")
