"""The verb ``remodel align`` and its steps: paths in, paths out, no logic."""

from pathlib import Path

import typer

from remodeler.cli import options as opt
from remodeler.cli import options_align as ali
from remodeler.cli import options_fuse as fus
from remodeler.cli import options_recover as rec

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Better behaved: a policy learns from its own answers, as a reviser chooses and rewrites them.",
)


@app.command("train-reviser", cls=opt.Verb)
def train_reviser(
    model: ali.Model,
    preferences: ali.Preferences,
    out: opt.Out,
    samples: ali.Samples = None,
    held_out: ali.HeldOut = 0.1,
    pairs: ali.Lower = None,
    gap: ali.Gap = 0.0,
    length: ali.Length = None,
    template: ali.Template = None,
    difficulty: ali.Measure = "gain",
    major_share: ali.Major = 0.5,
    none_share: ali.NoneShare = 1 / 3,
    gain_floor: ali.Floor = None,
    label_weight: ali.LabelWeight = 1.0,
    warmup_epochs: ali.WarmupEpochs = 1.0,
    identity: ali.Identity = 0.0,
    afresh: ali.Afresh = False,
    epochs: ali.Epochs = 2.0,
    learning_rate: ali.LearningRate = None,
    train_batch: ali.Batch = 32,
    schedule: fus.ScheduleName = "cosine",
    warmup: fus.Warmup = 0.03,
    adapters: fus.Adapters = False,
    rank: fus.Rank = 32,
    alpha: fus.Alpha = 32.0,
    micro_batch: rec.MicroBatch = None,
    precision: rec.PrecisionName = "auto",
    checkpointing: rec.Checkpointing = False,
    seed: opt.Seed = 42,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    dry_run: opt.DryRun = False,
) -> None:
    """Make a reviser: it says how much of a response has to change (NONE, MINOR, MAJOR), and rewrites it.

    Learns from preferences in any usual shape. Interrupted? The same command goes on.

    Example: `remodel align train-reviser Qwen/Qwen3-0.6B --preferences pairs.jsonl --out reviser`
    """
    given = dict(locals())
    from remodeler.alignment.reviser.train import train_reviser as make

    if make(ali.reviser_wish(given), out, dry_run):
        places(out, "the reviser, report.html, difficulty.jsonl, training.jsonl, record.json")


@app.command(cls=opt.Verb)
def revise(
    responses: ali.Responses,
    reviser: ali.Reviser,
    out: opt.Out,
    tokens: ali.Tokens = 256,
    limit: ali.Limit = None,
    batch_size: ali.BatchSize = None,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    dry_run: opt.DryRun = False,
) -> None:
    """Label and revise responses that somebody else wrote; the report shows what changed, word by word.

    Example: `remodel align revise --responses answers.jsonl --reviser reviser --out revised`
    """
    given = dict(locals())
    from remodeler.alignment.reviser.revise import revise_responses

    record = revise_responses(ali.revise_wish(given), out, dry_run)
    if record is not None:
        from remodeler.cli.screen import table

        table("", ["label", "responses"], [[label, str(count)] for label, count in record.results["labels"].items()])
        places(out, "revisions.jsonl, report.html, record.json")


@app.command(cls=opt.Verb)
def evolve(
    model: ali.Policy,
    prompts: ali.Prompts,
    reviser: ali.Reviser,
    out: opt.Out,
    rounds: ali.Rounds = "internal,external",
    limit: ali.Limit = None,
    probe: ali.Probe = 64,
    samples: ali.Answers = 4,
    tokens: ali.Tokens = 256,
    temperature: ali.Temperature = 1.0,
    top_p: ali.TopP = 0.95,
    chat: ali.Chat = False,
    batch_size: ali.BatchSize = None,
    labels: ali.Labels = True,
    quality: ali.Quality = 0.5,
    confidence: ali.Confidence = 0.4,
    major_confidence: ali.MajorConfidence = 0.5,
    slack: ali.Slack = 0.0,
    shortest: ali.Shortest = 0.3,
    longest: ali.Longest = 3.0,
    repetition: ali.Repetition = 0.3,
    restart: ali.Restart = False,
    epochs: ali.Epochs = 2.0,
    learning_rate: ali.LearningRate = None,
    train_batch: ali.Batch = 32,
    schedule: fus.ScheduleName = "cosine",
    warmup: fus.Warmup = 0.03,
    adapters: fus.Adapters = False,
    rank: fus.Rank = 32,
    alpha: fus.Alpha = 32.0,
    micro_batch: rec.MicroBatch = None,
    precision: rec.PrecisionName = "auto",
    checkpointing: rec.Checkpointing = False,
    seed: opt.Seed = 42,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    dry_run: opt.DryRun = False,
) -> None:
    """A policy answers prompts, a reviser selects and rewrites, the policy learns: round by round.

    Needs prompts only. Every answer stays on the disk with the reason why it was learned from or not. Interrupted? The
    same command goes on. Several GPUs: `torchrun ... -m remodeler align evolve`.

    Example: `remodel align evolve policy --prompts prompts.txt --reviser reviser --out evolved`
    """
    given = dict(locals())
    from remodeler.alignment.evolution.job import evolve_policy

    if evolve_policy(ali.evolve_wish(given), out, dry_run):
        round_table(out)
        places(out, "the policy, report.html, round-1.jsonl, ..., record.json")


@app.command(cls=opt.Verb)
def baseline(
    model: ali.Policy,
    preferences: ali.Preferences,
    out: opt.Out,
    method: ali.Method = "sft",
    samples: ali.Samples = None,
    held_out: ali.HeldOut = 0.1,
    pairs: ali.Lower = None,
    gap: ali.Gap = 0.0,
    length: ali.Length = None,
    chat: ali.Chat = False,
    beta: ali.Beta = 0.1,
    epochs: ali.Epochs = 2.0,
    learning_rate: ali.LearningRate = None,
    train_batch: ali.Batch = 32,
    schedule: fus.ScheduleName = "cosine",
    warmup: fus.Warmup = 0.03,
    adapters: fus.Adapters = False,
    rank: fus.Rank = 32,
    alpha: fus.Alpha = 32.0,
    micro_batch: rec.MicroBatch = None,
    precision: rec.PrecisionName = "auto",
    checkpointing: rec.Checkpointing = False,
    seed: opt.Seed = 42,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    dry_run: opt.DryRun = False,
) -> None:
    """Train a policy on preferences by another method, to hold against an evolved one.

    Example: `remodel align baseline policy --preferences pairs.jsonl --method dpo --out by-dpo`
    """
    given = dict(locals())
    from remodeler.alignment.baselines.job import train_baseline

    if train_baseline(ali.baseline_wish(given), out, dry_run):
        places(out, "the policy, report.html, training.jsonl, record.json")


def round_table(out: Path) -> None:
    """The end of an evolution: its table."""
    from remodeler.alignment.evolution.results import EvolveResults
    from remodeler.cli.screen import table
    from remodeler.runs.records import load_record

    table("", *EvolveResults.parse(load_record(out)).narrow_table())


def places(out: Path, what: str) -> None:
    """The end of a step: where things are."""
    from remodeler.cli.screen import note

    note(f"{out}: {what}")
