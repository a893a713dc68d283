"""Verbs whose options are not declared on a config yet."""

from pathlib import Path

import typer

from remodeler.cli import align_run
from remodeler.cli import options as opt
from remodeler.cli import options_recover as rec
from remodeler.cli.audit import audit
from remodeler.cli.evaluate import evaluate, show_table
from remodeler.cli.export import export
from remodeler.cli.fuse import fuse
from remodeler.cli.report import publish, report
from remodeler.cli.screen import note

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make new language models out of existing ones, without training from scratch.",
    epilog="Try it now, offline: `remodel demo`. Each verb explains itself: `remodel prune --help`.",
)


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
    from remodeler.report.page import write_report

    opt.refuse_unknown(given)
    places = {"heldout": held_out, "store": teacher_store, **rec.parts(given)}
    wish = Wish(**(opt.fields_of(Wish, given) | places))
    source, text = Source(**opt.fields_of(Source, given)), Text(**opt.fields_of(Text, given))
    if recover_model(source, text, wish, out, write_report, dry_run):
        _show(out, push_to_hub)


def _show(out: Path, name: str | None) -> None:
    """The end of a verb: the table, where things are, and the way to the hub."""
    from remodeler.runs.records import load_record

    record = load_record(out)
    show_table(record.results)
    files = [name for name in ("report.html", "removals.jsonl", "record.json") if (out / name).exists()]
    note(f"{out}: the model ({record.results['form']} form), {', '.join(files)}")
    opt.published(out, name)


app.command(cls=opt.Verb)(evaluate)
app.command(cls=opt.Verb)(fuse)
app.command(cls=opt.Verb)(export)
app.command(cls=opt.Verb)(report)
app.command(cls=opt.Verb)(publish)
app.add_typer(align_run.app, name="align")
app.add_typer(audit, name="audit", short_help="Find and count toxic spans in texts, and in what models write.")
