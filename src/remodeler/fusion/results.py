"""Results of a fusion: the student before and after, how each teacher predicts; and the words of page and card."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCardData

from remodeler.errors import quantity
from remodeler.reporting.card import known_as, loading_lines, measurements, page, warnings_of
from remodeler.reporting.card_data import inherited_metadata
from remodeler.reporting.card_text import code, markdown
from remodeler.reporting.figures import Measured, Values, change, decimal, number
from remodeler.reporting.results import PLACED, Results, Section, stages
from remodeler.reporting.sections import comparison_table, loading_code, nonempty
from remodeler.reporting.training import loss_curve
from remodeler.runs.records import Record

TAGS = ("knowledge-fusion", "distillation", "remodeler")
BITS = "heldout_bits_per_byte"


@dataclass(frozen=True, kw_only=True)
class FuseResults(Results):
    """Of ``remodel fuse``."""

    student: Values = field(default_factory=dict, metadata=PLACED)
    teachers: Mapping[str, Values] = field(default_factory=dict)
    """By teacher the share of positions at which it predicts, its bits per byte and its weight."""
    fused: Values = field(default_factory=dict, metadata=PLACED)
    form: str = ""
    check: Values | None = None
    """Differences between the written model and the one in memory."""
    warning: Values | None = None
    steps: int | None = None
    seconds: float | None = None
    auto_class: str = field(default="AutoModelForCausalLM", metadata=PLACED)
    pipeline_tag: str = "text-generation"
    command: str = ""

    def figures(self) -> Measured:
        """The student before and after."""
        return stages(before=self.student, after=self.fused)

    def lead(self, record: Record, folder: Path) -> str:
        """The change in held-out bits per byte."""
        before, after = (number(each.get(BITS)) for each in (self.student, self.fused))
        if before is None or after is None:
            return ""
        return f"Held-out text went from {decimal(before)} to {decimal(after)} bits per byte ({change(before, after)})."

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """The training, and its result."""
        return nonempty(
            loss_curve(folder),
            comparison_table(self.figures()),
            loading_code(self.form, self.auto_class, record),
        )

    def card(self, record: Record) -> str:
        """The student, its teachers, how each predicts, and the result."""
        student = known_as(record.options["student"])
        head = ModelCardData(
            base_model=student,
            library_name="transformers",
            pipeline_tag=self.pipeline_tag,
            tags=list(TAGS),
            **inherited_metadata(Path(record.options["student"])),
        )
        story = [
            self._story(record.options, student),
            "",
            *markdown(["teacher", "positions", "bits per byte", "weight"], self._teachers()),
            *warnings_of(self.warning),
            "",
            *measurements(before=self.student, after=self.fused),
        ]
        loading = loading_lines(self.form, self.auto_class, record.options["student"])
        return page(head, f"{student}, fused", story, loading, self.command)

    def _story(self, options: Values, student: str) -> str:
        teachers = ", ".join(code(known_as(name)) for name in options["teachers"])
        return (
            f"{code(student)}, trained for {quantity(self.steps or 0, 'step')} on {code(Path(options['texts']).name)} "
            f"and on what {teachers} predict in it ({options['text_share']:g} of the loss is the text's own)."
        )

    def _teachers(self) -> list[list[str]]:
        return [
            [code(known_as(name)), f"{each['coverage']:.1%}", f"{each['bits_per_byte']:.3f}", f"{each['weight']:.1%}"]
            for name, each in self.teachers.items()
        ]
