"""Results of comparing policies: one table of all, and the words of its page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from remodeler.reporting.figures import Measured, Values, by_name
from remodeler.reporting.results import PLACED, Results, Section, title_of
from remodeler.reporting.sections import comparison_table, nonempty
from remodeler.runs.records import Record


@dataclass(frozen=True, kw_only=True)
class CompareResults(Results):
    """Results of ``remodel align compare``."""

    of_models = True

    checkpoints: Sequence[Values] = field(default=(), metadata=PLACED)
    """The policies."""
    command: str = ""

    def title(self, record: Record) -> str:
        """The policies."""
        return title_of(*(name for name, _ in self.figures()))

    def figures(self) -> Measured:
        """The policies by their names."""
        return by_name(self.checkpoints)

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """All that was measured."""
        return nonempty(comparison_table(self.figures()))
