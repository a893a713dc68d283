"""What pruning found: the model before and after, what was removed; and the words of its page and its card."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remodeler.reporting.card import known_as, measurements, model_card, warnings_of
from remodeler.reporting.card_text import code
from remodeler.reporting.figures import Measured, Values
from remodeler.reporting.pruned import TAGS, Removals, cost, removals, removed_blocks
from remodeler.reporting.results import PLACED, Results, Section, source, stages
from remodeler.reporting.sections import comparison_table, figure, loading_code, nonempty
from remodeler.reporting.steps import importances, step_rows, steps_with_widths, tradeoff, width_map
from remodeler.runs.records import Record
from remodeler.runs.removals import REMOVALS_FILE, LogLine, read_log_lines

HERE = "pruning/templates"


@dataclass(frozen=True, kw_only=True)
class PruneResults(Results):
    """Of ``remodel prune`` and ``remodel cut``."""

    dense: Values = field(default_factory=dict, metadata=PLACED)
    pruned: Values = field(default_factory=dict, metadata=PLACED)
    removed: Sequence[str] | None = field(default=None, metadata=PLACED)
    """Blocks, in the order in which they went."""
    blocks: int | None = None
    """That the model had."""
    widths: dict[str, Sequence[int]] | None = field(default=None, metadata=PLACED)
    """By block the heads or channels that were kept, and how many there were; None where all were kept."""
    layers: int | None = field(default=None, metadata=PLACED)
    form: str = ""
    auto_class: str = field(default="AutoModelForCausalLM", metadata=PLACED)
    pipeline_tag: str = "text-generation"
    check: Values | None = None
    """What comparing the written model with the one in memory found."""
    seconds: float | None = None
    """Of the search."""
    command: str = ""
    warning: Values | None = None

    def figures(self) -> Measured:
        """Before and after."""
        return stages(before=_labelled(self.dense), after=_labelled(self.pruned))

    def lead(self, record: Record, folder: Path) -> str:
        """What was removed, and what that cost."""
        return " ".join(cost(self._removals(folder), self.dense, self.pruned, bool(self.widths)))

    def block_map(self, folder: Path) -> list[dict[str, Any]]:
        """Groups of layers with the step that removed each block."""
        return self._removals(folder).map()

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """The search, what it removed, and what is left."""
        found = self._removals(folder)
        steps = steps_with_widths(found.steps, found.chosen, self.widths, self.pruned)
        last = len(steps) - 1 if self.widths else found.chosen
        return nonempty(
            tradeoff_curve(steps, last),
            removed_blocks(found.map()),
            width_section(self.widths or {}, found),
            importance_map(found, record),
            comparison_table(self.figures(), "Before and after"),
            step_table(steps, last),
            loading_code(self.form, self.auto_class, record),
        )

    def _removals(self, folder: Path) -> Removals:
        return removals(read_log_lines(folder / REMOVALS_FILE), self.removed, self.layers)

    def card(self, record: Record) -> str:
        """What was removed of which model, what that cost, and how the rest is loaded."""
        base = source(record)
        known = known_as(base)
        table = measurements(source=_labelled(self.dense), pruned=_labelled(self.pruned))
        story = [self._story(record.options, known), *warnings_of(self.warning), "", *table]
        return model_card(self, base, f"{known}, pruned", TAGS, story)

    def _story(self, options: Values, name: str) -> str:
        """Which blocks went, and how many heads and channels."""
        removed, widths = self.removed or (), (self.widths or {}).values()
        sentences = []
        if removed or not widths:
            sentences.append(
                f"{len(removed)} of {self.blocks} residual blocks of {code(name)} were removed "
                f"(method {code(options['method'])}), in this order: {', '.join(removed)}."
            )
        if "text_parameters" in self.dense:
            sentences.append("All else than the text part (what reads images, and what lies beside it) is as it was.")
        if widths:
            kept, whole = (sum(part) for part in zip(*widths, strict=True))
            of_what = "of the others" if removed else f"of {code(name)}"
            method = {None: options["method"], "width": "hybrid-grained"}.get(options.get("then"), options.get("then"))
            sentences.append(
                f"{whole - kept:,} of {whole:,} heads and MLP channels {of_what} were cut out (method {code(method)}); "
                "`widths.json` names those that were kept."
            )
        return " ".join(sentences)


def _labelled(figures: Values) -> Values:
    """Figures of a search, which measures on its calibration text: what tables call the perplexity on it."""
    return {"calibration_perplexity" if key == "perplexity" else key: value for key, value in figures.items()}


# Sections -------------------------------------------------------------------------------------------------------------


def tradeoff_curve(steps: Sequence[LogLine], chosen: int) -> Section | None:
    """The trade-off curve."""
    words = "Perplexity on the calibration text, a point a step. The marked point is the model in this folder."
    return figure("What each step cost", tradeoff(steps, chosen), words)


def width_section(widths: dict[str, Sequence[int]], found: Removals) -> Section | None:
    """The map of heads and channels."""
    groups = width_map(widths, found.removed)
    return Section(f"{HERE}/widths.html.jinja", {"groups": groups}) if groups else None


def importance_map(found: Removals, record: Record) -> Section | None:
    """The heat map: how much perplexity rises by a removal, or what another criterion says."""
    relative = str(record.options.get("criterion") or "perplexity") == "perplexity"
    drawn = importances(found.steps, relative)
    return Section(f"{HERE}/importance.html.jinja", drawn) if drawn else None


def step_table(steps: Sequence[LogLine], chosen: int) -> Section | None:
    """The steps of the search, each with its cost."""
    rows = step_rows(steps, chosen)
    return Section(f"{HERE}/steps.html.jinja", {"steps": rows}) if rows else None
