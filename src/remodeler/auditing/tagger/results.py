"""Results of training a tagger: its scores on development posts; and the words of its report and its card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCardData

from remodeler.auditing.results import CAUTION
from remodeler.reporting.card import known_as, page
from remodeler.reporting.card_data import inherited_metadata
from remodeler.reporting.card_text import code, fenced, markdown
from remodeler.reporting.figures import Values
from remodeler.reporting.results import NULL, Results, Section
from remodeler.reporting.sections import nonempty
from remodeler.reporting.training import loss_curve
from remodeler.runs.records import Record


@dataclass(frozen=True, kw_only=True)
class TaggerResults(Results):
    """Results of ``remodel audit train``."""

    dev: Mapping[str, Values] = field(default_factory=dict)
    """F1, its standard error and the number of posts, by subset of the development posts."""
    epochs: Sequence[Values] = ()
    """Loss curve at the end of each epoch, with its F1."""
    false_alarms: Values | None = field(default=None, metadata=NULL)
    """Number of held-out harmless texts in which something was found; None where none were held out."""
    steps: int | None = None
    seconds: float | None = None
    parameters: int | None = None
    rules: Values | None = None
    """Rules that make spans of likelihoods."""
    command: str = ""

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """The loss curve."""
        return nonempty(loss_curve(folder))

    def card(self, record: Record) -> str:
        """How the tagger was made, its scores, its use, and its caveats."""
        encoder = known_as(record.options["encoder"])
        meta = ModelCardData(
            base_model=encoder,
            pipeline_tag="token-classification",
            tags=["toxic-spans", "remodeler"],
            **inherited_metadata(Path(record.options["encoder"])),
        )
        rows = [
            [name, f"{part['f1']:.4f}", f"{part['error']:.4f}", f"{part['posts']:,}"]
            for name, part in self.dev.items()
            if part["posts"]
        ]
        story = [
            _story(record, encoder),
            "",
            f"Official F1 of SemEval-2021 task 5 on the {record.inputs['dev']['count']:,} development posts, which "
            "chose the epoch and the thresholds, so slightly optimistic:",
            "",
            *markdown(["posts", "F1", "standard error", "count"], rows),
            "",
            *self._false_alarms(),
            f"**{CAUTION[0]}** {' '.join(CAUTION[1:])}",
        ]
        loading = fenced(["remodel audit predict --texts posts.csv --tagger . --out spans-pred.txt"])
        return page(meta, f"{encoder}, a tagger of toxic spans", story, loading, self.command)

    def _false_alarms(self) -> list[str]:
        alarms = self.false_alarms
        if not alarms:
            return []
        found = f"{alarms['found']:,} of {alarms['texts']:,} held-out harmless texts"
        return [f"False alarms: spans were found in {found}.", ""]


def _story(record: Record, encoder: str) -> str:
    """Kind of the tagger, and its training data."""
    options, inputs = record.options, record.inputs
    teacher = options["teacher"]
    taught = f", taught by {code(Path(teacher).name)}" if teacher else ""
    clean = f" and {inputs['harmless']['count']:,} harmless texts" if "harmless" in inputs else ""
    return (
        f"Finds toxic spans in texts: {code(encoder)} with {options['auxiliary']} features, {options['output']} output "
        f"and tags {options['scheme'].upper()}, trained on {inputs['texts']['count']:,} posts{clean}{taught}."
    )
