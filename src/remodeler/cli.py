"""The command ``remodel``: one short function per verb, paths in, paths out, no logic."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from remodeler import __version__
from remodeler.errors import InputError
from remodeler.options import (
    BatchSize,
    BlocksShare,
    CriterionName,
    Device,
    Dtype,
    ErrorShare,
    FamilyName,
    FormName,
    Fusion,
    Granularity,
    Increase,
    Length,
    MethodName,
    Model,
    Multiple,
    Out,
    PackingName,
    Protect,
    Ratio,
    Refine,
    Remove,
    Revision,
    Samples,
    Score,
    SearchName,
    Seed,
    ShapeName,
    Start,
    Steps,
    TextSource,
    Then,
    Trust,
    Uniform,
    UnitName,
    budget,
    one_of,
    share,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make new language models out of existing ones, without training from scratch.",
    epilog="Try it now, offline: `remodel demo`. Each verb explains itself: `remodel prune --help`.",
)


def version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main_options(
    show: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Options before the verb."""


@app.command()
def prune(
    model: Model,
    out: Out,
    ratio: Ratio = None,
    remove: Remove = None,
    max_increase: Increase = None,
    method: MethodName = "blockpruner",
    criterion: CriterionName = None,
    unit: UnitName = "block",
    shape: ShapeName = "free",
    protect: Protect = True,
    search: SearchName = "exact",
    error: ErrorShare = "1%",
    refine: Refine = False,
    start: Start = None,
    batch_size: BatchSize = None,
    then: Then = None,
    blocks_share: BlocksShare = "44%",
    uniform: Uniform = None,
    multiple: Multiple = None,
    granularity: Granularity = None,
    steps: Steps = None,
    score: Score = None,
    fusion: Fusion = None,
    form: FormName = "auto",
    texts: TextSource = "alpaca",
    samples: Samples = 256,
    length: Length = None,
    packing: PackingName = "paper",
    seed: Seed = 42,
    revision: Revision = None,
    family: FamilyName = None,
    trust_remote_code: Trust = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and how long it would take.")
    ] = False,
) -> None:
    """Remove the blocks, heads or channels that matter least, and write a smaller model that loads.

    By default (BlockPruner) every step removes the attention or MLP block without which the model's perplexity on the
    calibration texts is lowest; `--method` has the other papers. The path is kept in `OUT/removals.jsonl`; `remodel
    cut` makes other sizes from it. Interrupted? The same command goes on.
    Several GPUs: `torchrun --nproc-per-node 4 -m remodeler prune ...`.

    Example: `remodel prune Qwen/Qwen3-0.6B --out small --ratio 25%`
    """
    from remodeler.pruning.job import prune_model
    from remodeler.pruning.wishes import Plan, Source, Text
    from remodeler.report import write_report

    source = Source(model, revision, family, trust_remote_code, dtype, device)
    text = Text(texts, samples, length, one_of("packing", packing, ("paper", "per-text")), seed)
    units, shapes = ("block", "attention", "mlp", "layer"), ("free", "standard")
    widths = {"uniform": uniform, "multiple": multiple, "granularity": granularity}
    widths |= {"steps": steps, "score": score, "fusion": fusion}
    plan = Plan(
        method=method,
        criterion=criterion,
        unit=one_of("unit", unit, units),
        shape=one_of("shape", shape, shapes),
        protect=protect,
        search=search,
        error=share("error", error),
        refine=refine,
        then=then,
        blocks_share=share("blocks-share", blocks_share),
        width_options={name: value for name, value in widths.items() if value is not None},
        form=form,
        batch_size=batch_size,
        start=start,
    )
    if prune_model(source, text, plan, budget(ratio, remove, max_increase), out, write_report, dry_run):
        _show(out)


@app.command()
def cut(
    log: Annotated[
        Path, typer.Argument(help="The `removals.jsonl` of an earlier search, or its folder.", show_default=False)
    ],
    model: Model,
    out: Out,
    ratio: Ratio = None,
    remove: Remove = None,
    max_increase: Increase = None,
    form: FormName = "auto",
    revision: Revision = None,
    family: FamilyName = None,
    trust_remote_code: Trust = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Make another size on the path of an earlier search, without searching again.

    Example: `remodel cut small/removals.jsonl Qwen/Qwen3-0.6B --ratio 15% --out smaller`
    """
    from remodeler.pruning.job import cut_model
    from remodeler.pruning.wishes import Source
    from remodeler.report import write_report

    source = Source(model, revision, family, trust_remote_code, dtype, device)
    cut_model(log, source, budget(ratio, remove, max_increase), out, form, write_report)
    _show(out)


@app.command()
def evaluate(
    model: Model,
    against: Annotated[
        str | None, typer.Option(help="A second model, measured side by side.", show_default=False)
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="Perplexity on: wikitext2, python, ..., or a FILE as a whole.", rich_help_panel="Texts"),
    ] = "wikitext2",
    length: Length = None,
    packing: PackingName = "paper",
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
    revision: Revision = None,
    family: FamilyName = None,
    trust_remote_code: Trust = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Measure a model: perplexity, bits per byte, multiple-choice tasks, speed, memory.

    Example: `remodel evaluate small --against Qwen/Qwen3-0.6B --texts wikitext2 --tasks piqa,questions.jsonl`
    """
    from remodeler.evaluating import evaluate_models
    from remodeler.report import write_report

    common: dict[str, Any] = {
        "family": family,
        "trust_remote_code": trust_remote_code,
        "dtype": dtype,
        "device": device,
    }
    options: dict[str, Any] = {"texts": texts, "length": length, "packing": packing, "limit": limit, "speed": speed}
    names = [name for name in (model, against) if name]
    revisions = [revision, None][: len(names)]
    record = evaluate_models(
        names, revisions, common, options, [task for task in tasks.split(",") if task], out, write_report
    )
    _table(record.results)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="New folder for the results.")] = Path("remodel-demo"),
) -> None:
    """The main job on a small real model that travels along: prune, measure, write, load; offline, two minutes."""
    from remodeler.demo import load_in_stock, run_demo
    from remodeler.report import write_report

    for name, record in run_demo(out, write_report).items():
        _table(record.results, f"{name}: {len(record.results['removed'])} of {record.results['blocks']} blocks removed")
    typer.echo(f"\nA fresh Python with stock transformers, {out / 'standard'}:\n  {load_in_stock(out / 'standard')}")
    typer.echo(f"\nOpen {out / 'blocks' / 'report.html'}. Next: remodel prune --help")


def _show(out: Path) -> None:
    """The end of a verb: the table, and where things are."""
    from remodeler.console import note
    from remodeler.records import load_record

    record = load_record(out)
    _table(record.results)
    note(f"{out}: the model ({record.results['form']} form), report.html, removals.jsonl, record.json")


def _table(results: dict[str, Any], title: str = "") -> None:
    from remodeler.console import table
    from remodeler.measurements import checkpoints, comparison

    drawn = comparison(checkpoints(results))
    if drawn:
        rows = [[row["label"], *(cell["main"] for cell in row["cells"]), row["change"]] for row in drawn["rows"]]
        names = ["", *drawn["names"], "change"]
        last = None if drawn["changes"] else -1
        table(title, names[:last], [row[:last] for row in rows])


def main() -> None:
    """Entry point: user mistakes end in one sentence and exit code 2, an interrupt in 130."""
    try:
        app()
    except InputError as error:
        typer.echo(f"remodel: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("remodel: stopped (remodel prune goes on from here with the same command)", err=True)
        sys.exit(130)
