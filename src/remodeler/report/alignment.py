"""An alignment as a report shows it: how sure a reviser is and how right, rounds, and what changed word by word."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remodeler.report.card_align import CAUTION
from remodeler.report.figures import between, decimal, number
from remodeler.report.plots import reliability_svg
from remodeler.runs.records import read_lines

MOST = 100
"""Texts that are shown."""
LABELS = ("NONE", "MINOR", "MAJOR")

Values = Mapping[str, Any]


def logs(folder: Path) -> list[Values]:
    """Revised texts beside a record: of a folder of revisions, or of every round of an evolution."""
    rows: list[Values] = []
    if (folder / "revisions.jsonl").exists():
        rows += [{**row, "of": ""} for row in read_lines(folder / "revisions.jsonl")[1:]]
    for path in sorted(folder.glob("round-*.jsonl"), key=lambda each: (len(each.name), each.name)):
        rows += [{**row, "of": path.stem.replace("-", " ")} for row in read_lines(path)]
    return rows


def summary(results: Values, rows: Sequence[Values]) -> dict[str, Any] | None:
    """What the page shows of an alignment; None of another verb."""
    seen = results.get("calibration")
    if not (seen or results.get("rounds") or rows):
        return None
    changed = [row for row in rows if row.get("difference") and _texts(row)[0] != _texts(row)[1]]
    return {
        "caution": CAUTION,
        "figure": reliability_svg(seen["reliability"]) if seen else "",
        "confusion": _confusion(seen) if seen else [],
        "labels": LABELS,
        "tables": [each for each in (_rounds(results), _looks(results)) if each[1]],
        "texts": [_text(row) for row in changed[:MOST]],
        "changed": len(changed),
        "all": len(rows),
    }


def lead(results: Values) -> list[str]:
    """What came out, in a sentence or two."""
    seen, apart = results.get("calibration"), results.get("separation")
    told = []
    if seen and apart:
        told.append(
            f"{_share(seen['accuracy'])} of {seen['examples']:,} held-out labels are right, and the better answer "
            f"has the higher score in {between(apart, _share)} of pairs."
        )
    if (changed := number(results.get("changed"))) is not None:
        told.append(f"{changed:,.0f} of {sum(results['labels'].values()):,} responses were changed.")
    rounds = results.get("rounds") or []
    if rounds:
        taken = sum(each["accepted"] for each in rounds)
        told.append(f"{taken:,} of {sum(each['prompts'] for each in rounds):,} answers were learned from.")
    return told


def tiles(results: Values) -> list[dict[str, str]]:
    """The headline figures."""
    seen, apart, looks = results.get("calibration"), results.get("separation"), results.get("looks") or []
    found = []
    if seen and apart:
        chance = f"the commonest alone: {_share(seen['chance'])}"
        found.append(_tile("Held-out labels that are right", _share(seen["accuracy"]), chance))
        found.append(_tile("Expected calibration error", f"{seen['calibration_error']:.3f}", "0 is calibrated"))
        value, _, note = between(apart, _share).partition(" ")
        found.append(_tile("Better answer scores higher", value, note.strip("()")))
    if len(looks) > 1 and None not in (looks[0]["quality"], looks[-1]["quality"]):
        note = f"from {looks[0]['quality']:.3f}, by the reviser"
        found.append(_tile("Quality of answers", f"{looks[-1]['quality']:.3f}", note))
    return found


def evolution(results: Values) -> tuple[list[str], list[list[str]]]:
    """The table of an evolution's rounds for a terminal: its head and its rows, as far as they are narrow."""
    head, rows = _rounds(results)
    return head[:6], [row[:6] for row in rows]


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "unit": "", "note": note}


def _share(value: float) -> str:
    return f"{value:.1%}"


def _confusion(seen: Values) -> list[list[str]]:
    return [[label, *map(str, row)] for label, row in zip(LABELS, seen["confusion"], strict=True)]


def _rounds(results: Values) -> tuple[list[str], list[list[str]]]:
    head = ["round", "prompts", "accepted", "revised", "quality", "of what is learned", "characters", "left out for"]
    rows = [
        [
            f"{place} {each['kind']}",
            *(decimal(int(each[key])) for key in ("prompts", "accepted", "revised")),
            *(_decimal(each.get(key)) for key in ("quality", "quality_learned", "characters_learned")),
            ", ".join(f"{reason} ({count})" for reason, count in each["reasons"].items()),
        ]
        for place, each in enumerate(results.get("rounds") or [], 1)
    ]
    return head, rows


def _looks(results: Values) -> tuple[list[str], list[list[str]]]:
    head = ["prompts set aside", "answers", "quality", *LABELS, "ended", "characters"]
    rows = [
        [
            each["name"],
            decimal(int(each["answers"])),
            _decimal(each["quality"]),
            *(str(each["labels"].get(label, 0)) for label in LABELS),
            _share(each["ended"]),
            _decimal(each["characters"]),
        ]
        for each in results.get("looks") or []
    ]
    return head, rows


def _decimal(value: Any) -> str:
    found = number(value)
    return "" if found is None else f"{found:.3f}" if found <= 1 else decimal(round(found))


# Texts ----------------------------------------------------------------------------------------------------------------


def _texts(row: Values) -> tuple[str, str]:
    """Before and after."""
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
