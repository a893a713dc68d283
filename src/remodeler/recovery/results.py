"""What recovery found: the models before and after, what came back; and the words of its page and its card."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remodeler.errors import quantity
from remodeler.reporting.card import known_as, measurements, model_card, warnings_of
from remodeler.reporting.card_text import code
from remodeler.reporting.figures import Measured, Values, decimal, number
from remodeler.reporting.pruned import TAGS, Removals, cost, removals, removed_blocks
from remodeler.reporting.results import NULL, PLACED, Results, Section, source, stages
from remodeler.reporting.sections import comparison_table, loading_code, nonempty
from remodeler.reporting.training import loss_curve
from remodeler.runs.records import Record

PERPLEXITY = "heldout_perplexity"


@dataclass(frozen=True, kw_only=True)
class RecoverResults(Results):
    """Of ``remodel recover``."""

    dense: Values | None = field(default=None, metadata=PLACED)
    """Of the unpruned model, where it is known."""
    pruned: Values = field(default_factory=dict, metadata=PLACED)
    recovered: Values = field(default_factory=dict, metadata=PLACED)
    form: str = ""
    check: Values | None = None
    """What comparing the written model with the one in memory found."""
    given_back: float | None = field(default=None, metadata=NULL)
    """Share of what pruning cost that came back."""
    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    auto_class: str = field(default="AutoModelForCausalLM", metadata=PLACED)
    pipeline_tag: str = "text-generation"
    command: str = ""
    removed: Sequence[str] | None = field(default=None, metadata=PLACED)
    """As the record of the pruned model has it, where it has one; the same goes for blocks and layers."""
    blocks: int | None = None
    layers: int | None = field(default=None, metadata=PLACED)
    warning: Values | None = None

    def figures(self) -> Measured:
        """The unpruned, the pruned and the trained model."""
        return stages(unpruned=self.dense, pruned=self.pruned, recovered=self.recovered)

    def lead(self, record: Record, folder: Path) -> str:
        """What pruning cost, and what training gave back."""
        return " ".join([*cost(self._removals(), self.dense or {}, self.pruned), *self._training()])

    def _training(self) -> list[str]:
        before, after = (number(each.get(PERPLEXITY)) for each in (self.pruned, self.recovered))
        if before is None or after is None:
            return []
        share, steps = number(self.given_back), number(self.steps)
        back = "" if share is None else f": {share:.0%} of what was lost came back"
        trained = "Training" if steps is None else f"{quantity(int(steps), 'step')} of training"
        return [f"{trained} brought it from {decimal(before)} to {decimal(after)}{back}."]

    def block_map(self, folder: Path) -> list[dict[str, Any]]:
        """Groups of layers with the place of each removed block in the order."""
        return self._removals().map()

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """The training, what had been removed, and what came back."""
        return nonempty(
            loss_curve(folder),
            removed_blocks(self.block_map(folder)),
            comparison_table(self.figures(), "Before and after"),
            loading_code(self.form, self.auto_class, record),
        )

    def _removals(self) -> Removals:
        return removals([], self.removed, self.layers)

    def card(self, record: Record) -> str:
        """How which model was trained, what that gave back, and how the result is loaded."""
        base = source(record)
        known = known_as(base)
        table = measurements(source=self.dense, pruned=self.pruned, recovered=self.recovered)
        story = [self._story(record.options, known), *warnings_of(self.warning), "", *table]
        return model_card(self, base, f"{known}, recovered", TAGS, story)

    def _story(self, options: Values, name: str) -> str:
        removed = self.removed
        before = f", of which {len(removed)} of {self.blocks} residual blocks had been removed" if removed else ""
        taught = (
            f" and what {code(Path(options['teacher']).name)} predicts"
            if options.get("distill", options.get("lesson"))
            else ""
        )
        return (
            f"{code(name)}{before}, trained for {quantity(self.steps or 0, 'step')} ({self.tokens:,} tokens) on "
            f"{code(Path(options['texts']).name)}{taught} (method {code(options['method'])})."
        )
