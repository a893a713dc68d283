"""What training a tagger found: how it scores on posts that were not learned from; and the words of page and card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCardData

from remodeler.auditing.results import CAUTION
from remodeler.report.card import known_as, page
from remodeler.report.card_data import inherited
from remodeler.report.card_text import code, fenced, markdown
from remodeler.report.figures import Values
from remodeler.report.results import NULL, Results, Section
from remodeler.report.sections import nonempty
from remodeler.report.training import loss_curve
from remodeler.runs.records import Record


@dataclass(frozen=True, kw_only=True)
class TaggerResults(Results):
    """Of ``remodel audit train``."""

    dev: Mapping[str, Values] = field(default_factory=dict)
    """By part of the development posts F1, its standard error and their number."""
    epochs: Sequence[Values] = ()
    """What each scored."""
    false_alarms: Values | None = field(default=None, metadata=NULL)
    """In how many harmless texts that were not learned from something was found; None where none were held out."""
    steps: int | None = None
    seconds: float | None = None
    parameters: int | None = None
    rules: Values | None = None
    """How spans are made of likelihoods."""
    command: str = ""

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """The training."""
        return nonempty(loss_curve(folder))

    def card(self, record: Record) -> str:
        """What the tagger was made of, what it scores, how it is used, and the warning that belongs to it."""
        encoder = known_as(record.options["encoder"])
        meta = ModelCardData(
            base_model=encoder,
            pipeline_tag="token-classification",
            tags=["toxic-spans", "remodeler"],
            **inherited(Path(record.options["encoder"])),
        )
        rows = [
            [name, f"{part['f1']:.4f}", f"{part['error']:.4f}", f"{part['posts']:,}"]
            for name, part in self.dev.items()
            if part["posts"]
        ]
        story = [
            _story(record, encoder),
            "",
            f"Official F1 of SemEval-2021 task 5 on the {record.inputs['dev']['count']:,} posts by which epoch and "
            "thresholds were chosen, so a little more than on others:",
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
        words = f"found in {alarms['found']:,} of {alarms['texts']:,} harmless texts that it has not learned from"
        return [f"False alarms: something was {words}.", ""]


def _story(record: Record, encoder: str) -> str:
    """What the tagger is, and what it has learned from."""
    head, teacher, inputs = record.options["head"], record.options["teacher"], record.inputs
    taught = f", taught by {code(Path(teacher).name)}" if teacher else ""
    clean = f" and {inputs['harmless']['count']:,} harmless texts" if "harmless" in inputs else ""
    return (
        f"Finds toxic spans in texts: {code(encoder)} with {head['auxiliary']} features, {head['output']} output and "
        f"tags {head['scheme'].upper()}, trained on {inputs['texts']['count']:,} posts{clean}{taught}."
    )
