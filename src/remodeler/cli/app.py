"""The command ``remodel``: one short function per verb, paths in, paths out, no logic."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from remodeler import __version__
from remodeler.cli import align_run
from remodeler.cli import options as opt
from remodeler.cli import options_recover as rec
from remodeler.cli.audit import audit
from remodeler.cli.evaluate import evaluate, show_table
from remodeler.cli.export import export
from remodeler.cli.merge import fuse, merge
from remodeler.cli.report import publish, report
from remodeler.errors import InputError, one_line, out_of_memory
from remodeler.runs.console import note, say
from remodeler.runs.records import disk_refusal, os_error
from remodeler.runs.streams import lasting_streams

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
        say(__version__)
        raise typer.Exit


@app.callback()
def main_options(
    show: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Options before the verb."""


@app.command(cls=opt.Verb)
def prune(
    model: opt.Model,
    out: opt.Out,
    ratio: opt.Ratio = None,
    remove: opt.Remove = None,
    max_increase: opt.Increase = None,
    method: opt.MethodName = "blockpruner",
    criterion: opt.CriterionName = None,
    unit: opt.UnitName = "block",
    shape: opt.ShapeName = "free",
    protect: opt.Protect = True,
    search: opt.SearchName = "exact",
    error: opt.ErrorShare = "1%",
    refine: opt.Refine = False,
    start: opt.Start = None,
    batch_size: opt.BatchSize = None,
    then: opt.Then = None,
    blocks_share: opt.BlocksShare = "44%",
    uniform: opt.Uniform = None,
    multiple: opt.Multiple = None,
    granularity: opt.Granularity = None,
    steps: opt.Steps = None,
    score: opt.Score = None,
    initial: opt.Initial = None,
    fusion: opt.Fusion = None,
    form: opt.FormName = "auto",
    texts: opt.TextSource = "alpaca",
    samples: opt.Samples = 256,
    length: opt.Length = None,
    packing: opt.PackingName = "paper",
    seed: opt.Seed = 42,
    revision: opt.Revision = None,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    stream: opt.Stream = False,
    push_to_hub: opt.Push = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Remove the blocks, heads or channels that matter least, and write a smaller model that loads.

    By default (BlockPruner) every step removes the attention or MLP block without which the model's perplexity on the
    calibration texts is lowest; `--method` has the other papers. `remodel cut` makes other sizes. Resumable.

    Example: `remodel prune Qwen/Qwen3-0.6B --out small --ratio 25%`
    """
    given = dict(locals())
    opt.refuse_unpublishable(None if dry_run else push_to_hub)
    from remodeler.checkpoint.source import Source
    from remodeler.evaluation.texts import Text
    from remodeler.pruning.config import Plan
    from remodeler.pruning.job import prune_model

    opt.refuse_unknown(given)
    plan = Plan(**opt.plan_fields(Plan, given))
    source, text = Source(**opt.fields_of(Source, given)), Text(**opt.fields_of(Text, given))
    if prune_model(source, text, plan, opt.budget(ratio, remove, max_increase), out, dry_run):
        _show(out, push_to_hub)


@app.command(cls=opt.Verb)
def cut(
    log: Annotated[
        Path, typer.Argument(help="The `removals.jsonl` of an earlier search, or its folder.", show_default=False)
    ],
    model: opt.Model,
    out: opt.Out,
    ratio: opt.Ratio = None,
    remove: opt.Remove = None,
    max_increase: opt.Increase = None,
    form: opt.FormName = "auto",
    revision: opt.Revision = None,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    push_to_hub: opt.Push = None,
) -> None:
    """Make another size on the path of an earlier search, without searching again.

    Example: `remodel cut small/removals.jsonl Qwen/Qwen3-0.6B --ratio 15% --out smaller`
    """
    from remodeler.checkpoint.source import Source
    from remodeler.pruning.job import cut_model

    opt.refuse_unpublishable(push_to_hub)
    source = Source(model, revision, family, trust_remote_code, dtype, device)
    cut_model(log, source, opt.budget(ratio, remove, max_increase), out, form)
    _show(out, push_to_hub)


@app.command(cls=opt.Verb)
def recover(
    model: opt.Model,
    out: opt.Out,
    teacher: rec.Teacher = None,
    method: rec.Way = "lora",
    adapters: rec.Adapters = None,
    rank: rec.Rank = None,
    alpha: rec.Alpha = None,
    dropout: rec.Dropout = None,
    top_k: rec.TopTokens = None,
    text_share: rec.TextShare = None,
    temperature: rec.Temperature = None,
    teacher_store: rec.TeacherStore = None,
    steps: rec.TrainSteps = None,
    epochs: rec.Epochs = None,
    learning_rate: rec.LearningRate = None,
    batch_size: rec.Batch = None,
    schedule: rec.ScheduleName = None,
    warmup: rec.Warmup = None,
    micro_batch: rec.MicroBatch = None,
    precision: rec.PrecisionName = "auto",
    checkpointing: rec.Checkpointing = False,
    evaluate_every: rec.EvaluateEvery = 50,
    merge: rec.Merge = True,
    texts: opt.TextSource = "alpaca",
    held_out: rec.HeldOut = None,
    samples: rec.TrainSamples = 8000,
    length: rec.Length = None,
    packing: opt.PackingName = "paper",
    seed: opt.Seed = 42,
    revision: opt.Revision = None,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    push_to_hub: opt.Push = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Give back what pruning cost: train a pruned model, and write it in the form it came in.

    LoRA adapters by default, with BlockPruner's settings; `--method full` trains everything, `distill` learns from the
    unpruned model. Interrupted? The same command goes on. Several GPUs: `torchrun ... -m remodeler recover`.

    Example: `remodel recover small --teacher Qwen/Qwen3-0.6B --out better`
    """
    given = dict(locals())
    opt.refuse_unpublishable(None if dry_run else push_to_hub)
    from remodeler.checkpoint.source import Source
    from remodeler.evaluation.texts import Text
    from remodeler.recovery.config import Wish
    from remodeler.recovery.job import recover_model

    opt.refuse_unknown(given)
    places = {"heldout": held_out, "store": teacher_store, **rec.parts(given)}
    wish = Wish(**(opt.fields_of(Wish, given) | places))
    source, text = Source(**opt.fields_of(Source, given)), Text(**opt.fields_of(Text, given))
    if recover_model(source, text, wish, out, dry_run):
        _show(out, push_to_hub)


@app.command(cls=opt.Verb)
def demo(
    out: Annotated[Path, typer.Option(help="New folder for the results.")] = Path("remodel-demo"),
) -> None:
    """The main job on a small real model that travels along: prune, measure, write, load; offline, two minutes."""
    from remodeler.cli.demo import load_in_stock, run_demo
    from remodeler.cli.results import results_of

    for name, record in run_demo(out).items():
        results = results_of(record)
        show_table(results, f"{name}: {len(record.results['removed'])} of {record.results['blocks']} blocks removed")
    say("")
    say(f"A fresh Python with stock transformers, {out / 'standard'}:")
    say(f"  {load_in_stock(out / 'standard')}")
    say("")
    say(f"Open {out / 'blocks' / 'report.html'}. Next: remodel prune --help")


def _show(out: Path, name: str | None) -> None:
    """The end of a verb: the table, where things are, and the way to the hub."""
    from remodeler.cli.results import results_of
    from remodeler.runs.records import load_record

    record = load_record(out)
    show_table(results_of(record))
    files = [name for name in ("report.html", "removals.jsonl", "record.json") if (out / name).exists()]
    note(f"{out}: the model ({record.results['form']} form), {', '.join(files)}")
    opt.published(out, name)


app.command(cls=opt.Verb)(evaluate)
app.command(cls=opt.Verb)(merge)
app.command(cls=opt.Verb)(fuse)
app.command(cls=opt.Verb)(export)
app.command(cls=opt.Verb)(report)
app.command(cls=opt.Verb)(publish)
app.add_typer(align_run.app, name="align")
app.add_typer(audit, name="audit", short_help="Find and count toxic spans in texts, and in what models write.")


def main() -> None:
    """Entry point: user mistakes end in one sentence and exit code 2, an interrupt in 130.

    What can't be shown stops no work; where a table or a line of a result was lost so, the exit code says it.
    """
    with lasting_streams() as (out, _):
        code = _run()
        out.flush()
        if out.lost and not code:
            code = _refused(f"stdout can't be written ({out.lost}): files are complete, what was shown there is lost")
    sys.exit(code)


def _run() -> Any:
    """Run the verb that was given; the exit code."""
    try:
        app()
    except SystemExit as end:  # typer's, with 130 where it was interrupted
        return _refused("stopped (the same command goes on from here)", 130) if end.code == 130 else end.code
    except InputError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        return _refused("stopped (the same command goes on from here)", 130)
    except Exception as error:
        if out_of_memory(error):
            return _refused(f"memory ran out ({one_line(error)}): close other programs, or use a machine with more")
        if found := os_error(error):
            return _refused(str(disk_refusal(Path(os.fsdecode(found.filename or "a file")), found)))
        raise
    return 0


def _refused(sentence: str, code: int = 2) -> int:
    """Say why there is no result; the exit code."""
    note(f"remodel: {sentence}")
    return code
