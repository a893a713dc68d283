"""Results of training a reviser and of revising responses, and the words of their pages and of the card."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from remodeler.alignment.data.template import LABELS
from remodeler.alignment.results import CAUTION, HERE, TAGS, revised_texts, share_of
from remodeler.reporting.card import known_as, model_card
from remodeler.reporting.card_text import code, markdown
from remodeler.reporting.figures import Tile, Values, between
from remodeler.reporting.plots import reliability_svg
from remodeler.reporting.results import PLACED, Results, Section, source, stored_as
from remodeler.reporting.sections import caution, loading_code, log_lines, nonempty
from remodeler.reporting.training import loss_curve
from remodeler.runs.records import Record

REVISIONS_FILE = "revisions.jsonl"


@dataclass(frozen=True, kw_only=True)
class ReviserResults(Results):
    """Results of ``remodel align train-reviser``."""

    reviser: Values = field(default_factory=dict, metadata=PLACED)
    """Its size, which no page shows."""
    triples: Values = field(default_factory=dict)
    """Number of triples trained on, held out and left out."""
    labels: Values = field(default_factory=dict)
    """The threshold between them, and how many there are of each."""
    agreement: Mapping[str, float] = field(default_factory=dict, metadata=stored_as("agreement of measures"))
    calibration: Values = field(metadata=PLACED)
    """Accuracy and calibration on held-out labels."""
    separation: Values = field(metadata=PLACED)
    """In which share of held-out pairs the better answer has the higher score."""
    losses: Values = field(default_factory=dict)
    """Held-out loss before and after, by phase."""
    form: str = ""
    auto_class: str = field(default="AutoModelForCausalLM", metadata=PLACED)
    pipeline_tag: str = "text-generation"
    command: str = ""

    def lead(self, record: Record, folder: Path) -> str:
        """Accuracy in a sentence."""
        seen = self.calibration
        return (
            f"{share_of(seen['accuracy'])} of {seen['examples']:,} held-out labels are right, and the better answer "
            f"has the higher score in {between(self.separation, share_of)} of pairs."
        )

    def tiles(self) -> list[Tile]:
        """Accuracy, calibration error, and how well quality separates better answers from worse ones."""
        seen = self.calibration
        value, _, spread = between(self.separation, share_of).partition(" ")
        chance = f"the most common label alone: {share_of(seen['chance'])}"
        return [
            Tile("Held-out labels that are right", share_of(seen["accuracy"]), chance),
            Tile("Expected calibration error", f"{seen['calibration_error']:.3f}", "0 is calibrated"),
            Tile("Better answer scores higher", value, spread.strip("()")),
        ]

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """Calibration, and the training."""
        return nonempty(
            reliability(self.calibration),
            caution(CAUTION),
            loss_curve(folder),
            loading_code(self.form, self.auto_class, record),
        )

    def card(self, record: Record) -> str:
        """Base model and preferences, accuracy, and use."""
        base, seen, apart = source(record), self.calibration, self.separation
        known, data = known_as(base), known_as(record.inputs["preferences"]["name"])
        rows = [
            ["held-out labels that are right", f"{seen['accuracy']:.1%}"],
            ["the most common label alone", f"{seen['chance']:.1%}"],
            ["expected calibration error", f"{seen['calibration_error']:.3f}"],
            ["better answer has the higher score", f"{apart['value']:.1%} ({apart['low']:.1%} to {apart['high']:.1%})"],
        ]
        story = [
            f"Reads a prompt and a response, says how much has to change (NONE, MINOR, MAJOR) and rewrites it. Made of "
            f"{code(known)} with {self.triples['train']:,} preferences of "
            f"{code(data)}; {self.triples['held out']:,} were held out.",
            "",
            *markdown(["", ""], rows),
            "",
            "Use it with `remodel align revise` or `remodel align evolve`: `reviser.json` holds its template and "
            "labels. With another template than that of its training it is worthless.",
            "",
            CAUTION,
        ]
        return model_card(self, base, f"{known}, a reviser", TAGS, story)


@dataclass(frozen=True, kw_only=True)
class ReviseResults(Results):
    """Results of ``remodel align revise``."""

    labels: Mapping[str, int]
    """Number of responses by label."""
    changed: int
    not_ended: int | None = field(default=None, metadata=stored_as("not ended"))
    characters: float | None = None
    """Mean of the responses."""
    characters_after: float | None = field(default=None, metadata=stored_as("characters after"))
    command: str = ""

    def lead(self, record: Record, folder: Path) -> str:
        """Number of responses changed, in a sentence."""
        return f"{self.changed:,.0f} of {sum(self.labels.values()):,} responses were changed."

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """Changes, word by word."""
        rows = [{**row, "of": ""} for row in log_lines(folder / REVISIONS_FILE)[1:]]
        return nonempty(caution(CAUTION) if rows else None, revised_texts(rows))


# Sections -------------------------------------------------------------------------------------------------------------


def reliability(seen: Values) -> Section:
    """Held-out labels: how many are right where a probability says so, and which are taken for which."""
    rows = [[label, *map(str, row)] for label, row in zip(LABELS, seen["confusion"], strict=True)]
    values = {"svg": reliability_svg(seen["reliability"]), "labels": LABELS, "confusion": rows}
    return Section(f"{HERE}/reliability.html.jinja", values)
