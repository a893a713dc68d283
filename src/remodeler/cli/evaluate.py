"""The verb ``remodel evaluate``: paths in, paths out, no logic; and the table that verbs end with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remodeler.cli import options as opt

if TYPE_CHECKING:
    from remodeler.report.results import Results


def evaluate(
    model: opt.Model,
    against: Annotated[
        str | None, typer.Option(help="A second model, measured side by side.", show_default=False)
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="Perplexity on: wikitext2, python, ..., or a FILE as a whole.", rich_help_panel="Texts"),
    ] = "wikitext2",
    length: opt.Length = None,
    packing: opt.PackingName = "paper",
    tasks: Annotated[
        str,
        typer.Option(
            help="lm-eval tasks by name and local question FILEs, separated by commas.", rich_help_panel="Tasks"
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option(help="Questions a task.", rich_help_panel="Tasks")] = None,
    speed: Annotated[bool, typer.Option(help="Measure prefill and decoding speed.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="New folder for record.json and report.html.", show_default=False)
    ] = None,
    revision: opt.Revision = None,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
) -> None:
    """Measure a model: perplexity, bits per byte, multiple-choice tasks, speed, memory.

    Example: `remodel evaluate small --against Qwen/Qwen3-0.6B --texts wikitext2 --tasks piqa,questions.jsonl`
    """
    from remodeler.evaluation.job import evaluate_models

    common: dict[str, Any] = {
        "family": family,
        "trust_remote_code": trust_remote_code,
        "dtype": dtype,
        "device": device,
    }
    options: dict[str, Any] = {"texts": texts, "length": length, "packing": packing, "limit": limit, "speed": speed}
    names = [name for name in (model, against) if name]
    revisions = [revision, None][: len(names)]
    listed = [task for task in tasks.split(",") if task]
    evaluate_models(names, revisions, common, options, listed, out, show_table)


def show_table(results: "Results", title: str = "") -> None:
    """What was measured, on the terminal."""
    from remodeler.cli.screen import note, table
    from remodeler.report.cliff import warning_line
    from remodeler.report.figures import comparison, written

    drawn = comparison(results.figures())
    if drawn:
        names, rows = written(drawn)
        last = None if drawn["changes"] else -1
        table(title, names[:last], [row[:last] for row in rows])
    if results.warning:
        note(warning_line(results.warning))
