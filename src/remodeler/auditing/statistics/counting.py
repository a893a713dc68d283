"""Count spans: shares of texts and of characters by prompt, their difference, and the most frequent words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from remodeler.auditing.spans import Span, characters
from remodeler.auditing.statistics.intervals import Counts, difference, share

WORDS, MOST_WORDS = 3, 12
"""Longest span that counts as a word, in words; number of different words that are listed."""


@dataclass(frozen=True)
class AuditedText:
    """A text and its spans."""

    side: int
    """0 or 1: the model that wrote it."""
    number: int
    """Prompt, or row of the text, from 0."""
    sample: int
    text: str
    spans: tuple[Span, ...]

    def line(self) -> dict[str, Any]:
        """Row of ``spans.jsonl``."""
        spans = [[span.start, span.end, round(span.score, 4)] for span in self.spans]
        return {**vars(self), "spans": spans}

    def with_spans(self, spans: Sequence[Span]) -> "AuditedText":
        """The same text with its spans."""
        return replace(self, spans=tuple(spans))

    @classmethod
    def parse(cls, line: dict[str, Any]) -> "AuditedText":
        """Read a row of ``spans.jsonl``."""
        return cls(**{**line, "spans": tuple(Span(*each) for each in line["spans"])})


def tally(rows: Sequence[AuditedText]) -> Counts:
    """[prompts, 4] numbers of texts with spans, texts, characters in spans, characters; prompts by number."""
    places = {number: place for place, number in enumerate(sorted({row.number for row in rows}))}
    counts = np.zeros((len(places), 4))
    for row in rows:
        counts[places[row.number]] += (bool(row.spans), 1, len(characters(row.spans)), len(row.text))
    return counts


def side_figures(counts: Counts, seed: int) -> dict[str, Any]:
    """Counts of one side, and its shares with their intervals."""
    flagged, texts, toxic, length = (int(total) for total in counts.sum(0))
    return {
        "texts": texts,
        "flagged": flagged,
        "rate": asdict(share(counts[:, 0], counts[:, 1], seed)),
        "characters": length,
        "toxic_characters": toxic,
        "per_thousand": asdict(share(1000 * counts[:, 2], counts[:, 3], seed, bounded=False)),
    }


def compare_sides(first: Counts, second: Counts, seed: int) -> dict[str, Any]:
    """Differences of the second side from the first, paired by prompt."""
    scale = np.array([1, 1, 1000, 1])
    one, two = first * scale, second * scale
    flagged = one[:, 0] > 0, two[:, 0] > 0
    return {
        "rate": asdict(difference((one[:, 0], one[:, 1]), (two[:, 0], two[:, 1]), seed)),
        "per_thousand": asdict(difference((one[:, 2], one[:, 3]), (two[:, 2], two[:, 3]), seed)),
        "prompts": {
            "only_first": int((flagged[0] & ~flagged[1]).sum()),
            "only_second": int((flagged[1] & ~flagged[0]).sum()),
            "both": int((flagged[0] & flagged[1]).sum()),
            "neither": int((~flagged[0] & ~flagged[1]).sum()),
        },
    }


def frequent_words(rows: Sequence[AuditedText], sides: int) -> list[dict[str, Any]]:
    """Most frequent words in spans, masked, with their number on every side."""
    counts: Counter[tuple[str, int]] = Counter()
    for row in rows:
        found = (" ".join(row.text[span.start : span.end].lower().split()) for span in row.spans)
        counts.update((words, row.side) for words in found if len(words.split()) <= WORDS)
    totals: Counter[str] = Counter()
    for (words, _), count in counts.items():
        totals[words] += count
    order = sorted(totals, key=lambda words: (-totals[words], words))[:MOST_WORDS]
    return [{"word": mask_words(words), "counts": [counts[words, side] for side in range(sides)]} for words in order]


def quote_lines(rows: Sequence[AuditedText], around: int = 40) -> list[str]:
    """Every span unmasked, in brackets, with its context and the place of its text."""
    return [_quote(row, span, around) for row in rows for span in row.spans]


def _quote(row: AuditedText, span: Span, around: int) -> str:
    before, after = row.text[max(0, span.start - around) : span.start], row.text[span.end : span.end + around]
    place = f"{row.side + 1}:{row.number + 1}.{row.sample + 1}"
    return (
        f"{place}  " + " ".join(f"{before}[{row.text[span.start : span.end]}]{after}".split()) + f"  {span.score:.2f}"
    )


def mask_words(words: str) -> str:
    """Replace letters by stars, except the first of each word, and the last of longer ones."""
    return " ".join(map(_mask_word, words.split()))


def _mask_word(word: str) -> str:
    last = word[-1] if len(word) > 3 else ""
    return word[0] + "*" * (len(word) - 1 - len(last)) + last
