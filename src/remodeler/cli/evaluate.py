"""The verb ``remodel evaluate``, and the table that verbs end with."""

from typing import TYPE_CHECKING

from remodeler.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from remodeler.reporting.results import Results


def evaluate(config: EvaluateConfig) -> None:
    """Measure, and show it."""
    from remodeler.evaluation.job import evaluate_models

    evaluate_models(config, show_table)


def show_table(results: "Results", title: str = "") -> None:
    """What was measured, on the terminal."""
    from remodeler.cli.screen import note, table
    from remodeler.reporting.cliff import warning_line
    from remodeler.reporting.figures import comparison, written

    drawn = comparison(results.figures())
    if drawn:
        names, rows = written(drawn)
        last = None if drawn["changes"] else -1
        table(title, names[:last], [row[:last] for row in rows])
    if results.warning:
        note(warning_line(results.warning))
