"""The verbs ``remodel merge`` and ``remodel fuse``: paths in, paths out, no logic."""

from pathlib import Path
from typing import Any

from remodeler.cli import options as opt
from remodeler.cli import options_fuse as fus
from remodeler.cli import options_merge as mer
from remodeler.cli import options_recover as rec
from remodeler.cli.evaluate import show_table
from remodeler.errors import InputError


def merge(
    out: opt.Out,
    models: mer.Models = None,
    base: mer.Base = None,
    method: mer.MethodName = None,
    config: mer.Config = None,
    tokenizer: mer.Tokens = None,
    weight: mer.Weight = None,
    density: mer.Density = None,
    gamma: mer.Gamma = None,
    epsilon: mer.Epsilon = None,
    scale: mer.Scale = None,
    t: mer.Place = None,
    normalize: mer.Normalize = None,
    rescale: mer.Rescale = None,
    select: mer.Select = None,
    variant: mer.Variant = None,
    granularity: mer.Granularity = None,
    dtype: mer.Dtype = "auto",
    shard_size: mer.ShardSize = "5GB",
    device: opt.Device = "cpu",
    seed: opt.Seed = 42,
    trust_remote_code: opt.Trust = False,
    push_to_hub: opt.Push = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Make one model of many that have one shape, in memory that does not grow with them.

    Methods that merge *changes* (all but linear and slerp) need `--base`, the model that the others were made from.
    Files written for mergekit are read with `--config`. Interrupted? The same command goes on.

    Example: `remodel merge chat math code --base pretrained --method ties --density 0.3 --out merged`
    """
    given = dict(locals())
    opt.refuse_unpublishable(None if dry_run else push_to_hub)
    from remodeler.merging.config import Wish, of_file
    from remodeler.merging.job import merge_models

    names = ("device", "seed", "shard_size", "trust_remote_code")
    common: dict[str, Any] = {name: given[name] for name in names}
    if config is not None:
        _refuse_options_beside(config, given)
        wish = of_file(config, **common, **({"dtype": dtype} if dtype != "auto" else {}))
    else:
        wish = Wish(tuple(models or ()), base, method or "linear", mer.parts(given), tokenizer, dtype, **common)
    if merge_models(wish, out, dry_run):
        _done(out)
        opt.published(out, push_to_hub)


def _refuse_options_beside(config: Path, given: dict[str, Any]) -> None:
    """Raise for options that say what the file says."""
    if given["models"] or given["base"]:
        raise InputError(f"models and --config {config} were given: give one of them")
    options = ("method", *mer.NUMBERS, *mer.WORDS, "tokenizer")
    if both := [name for name in options if given[name] not in (None, [])]:
        raise InputError(f"--{both[0]} and --config {config} were given: say it in the file")


def fuse(
    student: fus.Student,
    teachers: fus.Teachers,
    out: opt.Out,
    itself: fus.Itself = True,
    teacher_store: fus.Stores = None,
    align: fus.Align = "bytes",
    map_name: fus.MapName = "pieces",
    inside: fus.InsideFlag = True,
    parity: fus.Parity = None,
    fusion: fus.Fusion = "mince",
    level: fus.Level = "sequence",
    score: fus.ScoreName = "byte",
    unaligned: fus.Unaligned = "skip",
    collide: fus.Collide = "sum",
    rest: fus.Rest = True,
    top_k: fus.TopTokens = 10,
    text_share: fus.Share = 0.9,
    divergence: fus.DivergenceName = "forward",
    temperature: fus.Temperature = 1.0,
    adapters: fus.Adapters = False,
    rank: fus.Rank = 32,
    alpha: fus.Alpha = 32.0,
    steps: fus.Steps = None,
    epochs: fus.Epochs = 1.0,
    learning_rate: fus.LearningRate = 1e-5,
    batch_size: fus.Batch = 4,
    schedule: fus.ScheduleName = "cosine",
    warmup: fus.Warmup = 0.03,
    micro_batch: rec.MicroBatch = None,
    precision: rec.PrecisionName = "auto",
    checkpointing: rec.Checkpointing = False,
    evaluate_every: rec.EvaluateEvery = 50,
    texts: fus.Texts = "alpaca",
    held_out: fus.HeldOut = None,
    samples: fus.Samples = 8000,
    length: fus.Length = None,
    seed: opt.Seed = 42,
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    push_to_hub: opt.Push = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Teach one model what others predict, whatever their tokenizers and sizes.

    FuseLLM gives all teachers at once; FuseChat makes a model with each teacher, then `remodel merge --method sce`.
    Interrupted? The same command goes on. Several GPUs: `torchrun ... -m remodeler fuse`.

    Example: `remodel fuse small --teachers large --teachers other --texts chats.jsonl --out taught`
    """
    given = dict(locals())
    opt.refuse_unpublishable(None if dry_run else push_to_hub)
    from remodeler.fusion.job import fuse_models

    if fuse_models(fus.wish_of(given), out, dry_run):
        _fused(out)
        opt.published(out, push_to_hub)


def _fused(out: Path) -> None:
    from remodeler.cli.results import results_of
    from remodeler.cli.screen import note
    from remodeler.runs.records import load_record

    show_table(results_of(load_record(out)))
    note(f"{out}: the model, report.html, training.jsonl, record.json")


def _done(out: Path) -> None:
    from remodeler.cli.screen import note, say
    from remodeler.report.figures import size
    from remodeler.runs.records import load_record

    results = load_record(out).results
    if results["shares"]:
        say(f"shares of the models: {', '.join(f'{each:.3f}' for each in results['shares'])}")
    weights = size(results["merged"]["weight_bytes"])
    note(f"{out}: the model ({weights} of weights), report.html, merge.jsonl, record.json")
