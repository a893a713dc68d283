"""Results of training on preferences: the policy before and after, and the words of its page and card."""

from dataclasses import dataclass, field
from pathlib import Path

from remodeler.alignment.results import TAGS
from remodeler.reporting.card import known_as, model_card
from remodeler.reporting.card_text import code
from remodeler.reporting.figures import Measured, Values
from remodeler.reporting.results import PLACED, Results, Section, source, stages
from remodeler.reporting.sections import comparison_table, loading_code, nonempty
from remodeler.reporting.training import loss_curve
from remodeler.runs.records import Record


@dataclass(frozen=True, kw_only=True)
class BaselineResults(Results):
    """Results of ``remodel align baseline``."""

    student: Values = field(default_factory=dict, metadata=PLACED)
    fused: Values = field(default_factory=dict, metadata=PLACED)
    """The same policy, trained."""
    triples: Values = field(default_factory=dict)
    """Number of triples trained on, held out and left out."""
    form: str = ""
    auto_class: str = field(default="AutoModelForCausalLM", metadata=PLACED)
    pipeline_tag: str = "text-generation"
    command: str = ""

    def figures(self) -> Measured:
        """The policy before and after."""
        return stages(before=self.student, after=self.fused)

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """The training, and what came of it."""
        return nonempty(
            loss_curve(folder),
            comparison_table(self.figures()),
            loading_code(self.form, self.auto_class, record),
        )

    def card(self, record: Record) -> str:
        """Which policy learned from which preferences, and how far it got."""
        base, data, method = source(record), record.inputs["preferences"]["name"], record.options["method"]
        before, after = (each["heldout_perplexity"] for each in (self.student, self.fused))
        story = [
            f"{code(known_as(base))}, trained on {code(known_as(data))} by {code(method)}. The perplexity of better "
            f"answers that were held out went from {before:.3g} to {after:.3g}.",
        ]
        return model_card(self, base, f"{known_as(base)}, {method}", TAGS, story)
