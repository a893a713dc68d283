"""The verb ``remodel fuse``: paths in, paths out, no logic."""

from pathlib import Path

from remodeler.cli import options as opt
from remodeler.cli import options_fuse as fus
from remodeler.cli import options_recover as rec
from remodeler.cli.evaluate import show_table


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
    from remodeler.cli.screen import note
    from remodeler.runs.records import load_record

    show_table(load_record(out).results)
    note(f"{out}: the model, report.html, training.jsonl, record.json")
