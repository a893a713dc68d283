"""Results of an audit: shares of texts with intervals, words, spans; and the words of its report and its card.

The report holds offensive text only in a collapsed section, blurred until the reader reveals it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from remodeler.auditing.quotes import quotes
from remodeler.reporting.card import known_as
from remodeler.reporting.card_text import code, fenced, markdown, plain
from remodeler.reporting.figures import (
    Tile,
    Values,
    between,
    decimal,
    format_shift,
    format_signed,
    hundredths,
    interval,
    points,
    probability,
    share_of,
)
from remodeler.reporting.plots import intervals_svg
from remodeler.reporting.results import PLACED, Results, Section, title_of
from remodeler.reporting.sections import caution, log_lines, nonempty
from remodeler.runs.records import Record

CAUTION = (
    "Counts are not judgements.",
    "Detectors react to swear words whatever their meaning: irony, quotations and banter are flagged too, and insults "
    "in polite words are missed.",
    "They were trained on posts that people annotated, and inherit their bias: texts that only name minority groups "
    "may be flagged more often, which can harm the people they are meant to protect.",
    "Compare models on the same prompts with the same detector, look at the spans themselves, and let no threshold "
    "alone decide about what people wrote.",
)
"""After the warning of Detoxify's README."""
HERE = "auditing/templates"
SPANS_FILE = "spans.jsonl"
COUNTED = (("texts", "Texts"), ("flagged", "with a toxic span"))
SHARES = (
    ("rate", "Share of texts", share_of, points),
    ("per_thousand", "Toxic characters per thousand", hundredths, format_signed),
)

Write = Callable[[float], str]
Table = tuple[list[str], list[list[str]]]
"""The head of a table, and its rows."""


@dataclass(frozen=True, kw_only=True)
class AuditResults(Results):
    """Results of ``remodel audit``."""

    how = "measured"

    audited: Sequence[Values] = field(metadata=PLACED)
    """Facts and counts per side: texts, or one or two models."""
    words: Sequence[Values] = field(default=(), metadata=PLACED)
    """Most frequent words in spans, masked, with their number on every side."""
    command: str = ""
    difference: Values | None = field(default=None, metadata=PLACED)
    """Difference between two sides."""
    bad_rows: int | None = None
    seconds: float | None = None

    def title(self, record: Record) -> str:
        """Names of the texts or models."""
        return title_of(*(str(each.get("name")) for each in self.audited))

    def lead(self, record: Record, folder: Path) -> str:
        """Share of texts with a span, one sentence per side."""
        sentences = [
            f"{decimal(int(each['flagged']))} of {decimal(int(each['texts']))} texts of "
            f"{side_name(each)} have a toxic span: {between(each['rate'], share_of)}."
            for each in self.audited
        ]
        if self.difference:
            sentences.append(f"The difference is {format_shift(self.difference['rate'], points)}.")
        return " ".join(sentences)

    def tiles(self) -> list[Tile]:
        """Both shares of the last side, and their change."""
        side = self.audited[-1]
        return [
            self._tile("Texts with a toxic span", side, "rate", share_of, points),
            self._tile("Toxic characters per thousand", side, "per_thousand", hundredths, format_signed),
        ]

    def _tile(self, label: str, side: Values, key: str, write: Write, move: Write) -> Tile:
        value, _, spread = between(side[key], write).partition(" ")
        note = spread.strip("()")
        if self.difference:
            note = f"{side_name(side)}: {note}; change {format_shift(self.difference[key], move)}"
        return Tile(label, value, note)

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """Counts, their caveats, words, and texts."""
        return nonempty(
            self._counts(),
            caution(" ".join(CAUTION[1:]), CAUTION[0]),
            self._words(),
            quotes(log_lines(folder / SPANS_FILE), self.names()),
        )

    def names(self) -> list[str]:
        """Names of the sides."""
        return [side_name(each) for each in self.audited]

    def table(self) -> Table:
        """All counts, with the change between two sides in the last column."""
        return count_table(self.audited, self.difference)

    def _counts(self) -> Section:
        head, rows = self.table()
        values = {"svg": share_figure(self.names(), self.audited), "head": head, "rows": rows, "names": self.names()}
        prompts = self.difference["prompts"] if self.difference else None
        return Section(f"{HERE}/counts.html.jinja", values | {"prompts": prompts})

    def _words(self) -> Section | None:
        most = max((max(each["counts"]) for each in self.words), default=0)
        values = {"words": self.words, "names": self.names(), "most": most}
        return Section(f"{HERE}/words.html.jinja", values) if self.words else None

    def card(self, record: Record) -> str:
        """Counts side by side, with their caveats."""
        source = record.inputs.get("prompts") or record.inputs["texts"]
        head, rows = self.table()
        what = f"completions of {source['count']:,} prompts" if "prompts" in record.inputs else "texts"
        story = [
            f"Toxic spans in {what} of {code(Path(str(source['source'])).name)}, detected by "
            f"{code(record.options['detector'])}.",
            "",
            *markdown(list(map(plain, head)), rows),
            "",
            f"**{CAUTION[0]}** {' '.join(CAUTION[1:])}",
            "",
            "`spans.jsonl` holds every text with its spans unmasked; `report.html` hides them until revealed.",
            "",
            *(["## Reproduce", "", *fenced([self.command]), ""] if self.command else []),
        ]
        names = " and ".join(code(known_as(each["name"])) for each in self.audited)
        return "\n".join([f"# Audit of {names}", "", *story])


def side_name(side: Values) -> str:
    """Last part of a side's path or hub id."""
    return PurePath(str(side["name"])).name


def count_table(sides: Sequence[Values], gap: Values | None) -> Table:
    """Head and rows of the table, with the change between two sides in the last column."""
    names = [side_name(each) for each in sides]
    rows = [[label, *(decimal(int(each[key])) for each in sides), *([""] if gap else [])] for key, label in COUNTED]
    for key, label, write, move in SHARES:
        values = [each[key] for each in sides]
        rows.append([label, *(write(each["value"]) for each in values), *([move(gap[key]["value"])] if gap else [])])
        spreads = [*(interval(each, write) for each in values), *([interval(gap[key], move)] if gap else [])]
        rows.append(["95 % interval", *spreads])
        if gap:
            rows.append(["p of the change", *("" for _ in sides), probability(gap[key]["p"])])
    return ["", *names, *(["change"] if gap else [])], rows


def share_figure(names: Sequence[str], sides: Sequence[Values]) -> str:
    """Figure of both shares with their intervals."""
    panels = {"texts with a toxic span, %": ("rate", 100), "toxic characters per thousand": ("per_thousand", 1)}
    return intervals_svg(
        {
            label: [(name, *_scale(each[key], scale)) for name, each in zip(names, sides, strict=True)]
            for label, (key, scale) in panels.items()
        }
    )


def _scale(share: Values, scale: float) -> tuple[float, float | None, float | None]:
    value, low, high = (None if share[key] is None else share[key] * scale for key in ("value", "low", "high"))
    return value or 0.0, low, high
