"""Results of an evolution: its rounds, measurements between them, and the words of its page and card."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remodeler.alignment.data.template import LABELS
from remodeler.alignment.results import CAUTION, TAGS, revised_texts, score_or_count, share_of
from remodeler.reporting.card import known_as, model_card
from remodeler.reporting.card_text import code, markdown
from remodeler.reporting.figures import Tile, Values, decimal
from remodeler.reporting.results import PLACED, Results, Section, source
from remodeler.reporting.sections import caution, loading_code, log_lines, nonempty, table
from remodeler.reporting.training import loss_curve
from remodeler.runs.records import Record

NARROW = 6
"""Columns that a terminal has room for."""
ROUND = ["round", "prompts", "accepted", "revised", "quality", "of what is learned", "characters", "left out for"]
LOOK = ["prompts set aside", "answers", "quality", *LABELS, "ended", "characters"]

Table = tuple[list[str], list[list[str]]]
"""The head of a table, and its rows."""


@dataclass(frozen=True, kw_only=True)
class EvolveResults(Results):
    """Results of ``remodel align evolve``."""

    policy: Values = field(default_factory=dict, metadata=PLACED)
    """Size of the first policy, which no page shows."""
    rounds: Sequence[Values] = field(metadata=PLACED)
    looks: Sequence[Values] = field(default=(), metadata=PLACED)
    """Measurements before the first round and after each, on prompts that were set aside."""
    form: str = ""
    auto_class: str = field(default="AutoModelForCausalLM", metadata=PLACED)
    pipeline_tag: str = "text-generation"
    command: str = ""

    def lead(self, record: Record, folder: Path) -> str:
        """Number of answers learned from, in a sentence."""
        accepted, prompts = (sum(each[key] for each in self.rounds) for key in ("accepted", "prompts"))
        return f"{accepted:,} of {prompts:,} answers were learned from." if self.rounds else ""

    def tiles(self) -> list[Tile]:
        """The quality of answers, where there was more than one look and a reviser could read them."""
        qualities = [each["quality"] for each in self.looks]
        if len(qualities) < 2 or None in (qualities[0], qualities[-1]):
            return []
        return [Tile("Quality of answers", f"{qualities[-1]:.3f}", f"from {qualities[0]:.3f}, by the reviser")]

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """The rounds, measurements between them, changes, and the training."""
        return nonempty(
            table("Round by round", ROUND, self._rounds()),
            table("Before and after, on prompts set aside", LOOK, self._looks()),
            caution(CAUTION),
            revised_texts(answers(folder)),
            loss_curve(folder),
            loading_code(self.form, self.auto_class, record),
        )

    def narrow_table(self) -> Table:
        """The rounds, for a terminal."""
        return ROUND[:NARROW], [row[:NARROW] for row in self._rounds()]

    def _rounds(self) -> list[list[str]]:
        return [
            [
                f"{place} {each['kind']}",
                *(decimal(int(each[key])) for key in ("prompts", "accepted", "revised")),
                *(score_or_count(each.get(key)) for key in ("quality", "quality_learned", "characters_learned")),
                ", ".join(f"{reason} ({count})" for reason, count in each["reasons"].items()),
            ]
            for place, each in enumerate(self.rounds, 1)
        ]

    def _looks(self) -> list[list[str]]:
        return [
            [
                each["name"],
                decimal(int(each["answers"])),
                score_or_count(each["quality"]),
                *(str(each["labels"].get(label, 0)) for label in LABELS),
                share_of(each["ended"]),
                score_or_count(each["characters"]),
            ]
            for each in self.looks
        ]

    def card(self, record: Record) -> str:
        """Which policy learned from what, round by round."""
        base = source(record)
        known, reviser = known_as(base), known_as(record.inputs["reviser"]["name"])
        rows = [
            [str(number), each["kind"], f"{each['prompts']:,}", f"{each['accepted']:,}", f"{each['quality']:.3f}"]
            for number, each in enumerate(self.rounds, 1)
        ]
        story = [
            f"{code(known)}, trained on its own answers as {code(reviser)} chose and revised them.",
            "",
            *markdown(["round", "", "prompts", "accepted", "mean quality of its first answers"], rows),
            "",
            CAUTION,
        ]
        return model_card(self, base, f"{known}, evolved", TAGS, story)


def answers(folder: Path) -> list[dict[str, Any]]:
    """The answers of every round, as they were chosen and revised."""
    paths = sorted(folder.glob("round-*.jsonl"), key=lambda each: (len(each.name), each.name))
    return [{**row, "of": path.stem.replace("-", " ")} for path in paths for row in log_lines(path)]
