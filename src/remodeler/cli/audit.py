"""The verb ``remodel audit`` and its parts: paths in, paths out, no logic.

``remodel audit MODEL ...`` and ``remodel audit --texts FILE`` name no part: they are ``remodel audit run``.
"""

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from remodeler.cli import options as opt
from remodeler.cli import options_audit as aud
from remodeler.cli.audit_run import lexicon, run


class Audit(TyperGroup):
    """A group of which everything that names no part is ``run``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` in front of what is no part and asks for no help."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


audit = typer.Typer(
    cls=Audit,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Find and count toxic spans: in texts (`remodel audit --texts FILE`), in what a model writes (`remodel audit "
    "MODEL --prompts FILE`), and against another model (`--against OTHER`): all options by `remodel audit run --help`. "
    "The parts below train the tagger that finds them, and use and score it.",
)


def train(
    texts: aud.Texts,
    encoder: aud.Encoder,
    out: aud.Out,
    dev: aud.Dev = None,
    fold: aud.Fold = None,
    teacher: aud.Teacher = None,
    teacher_share: aud.TeacherShare = 0.5,
    harmless: aud.Harmless = None,
    skip_bad: aud.SkipBad = False,
    auxiliary: aud.Auxiliary = "layer-attention-cls",
    output: aud.Output = "crf",
    scheme: aud.Scheme = "io",
    last_layers: aud.LastLayers = 4,
    dropout: aud.Dropout = 0.1,
    length: aud.Length = 256,
    stride: aud.Stride = 64,
    epochs: aud.Epochs = 3,
    batch: aud.Batch = 16,
    tokens: aud.Tokens = 2048,
    learning_rate: aud.LearningRate = 1e-4,
    head_rate: aud.HeadRate = 1e-3,
    warmup: aud.Warmup = 0.1,
    weight_decay: aud.Decay = 0.01,
    clip: aud.Clip = 1.0,
    loss: aud.Loss = "cross-entropy",
    seed: aud.Seed = 42,
    decode: aud.Decode = None,
    fill: aud.Fill = None,
    trim: aud.Trim = None,
    words: aud.Words = None,
    shortest: aud.Shortest = None,
    device: opt.Device = "auto",
    trust_remote_code: opt.Trust = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Train a tagger: an encoder, auxiliary information of its layers, and a CRF or a linear layer.

    After every epoch the official F1 on the development posts is measured; the best epoch is kept, with the threshold
    and the abstention that suit it. Interrupted? The same command goes on.

    Example: `remodel audit train --texts tsd_train.csv --dev tsd_trial.csv --encoder MiniLM --out tagger`
    """
    given = dict(locals())
    from remodeler.auditing.statistics.scoring import Score
    from remodeler.auditing.tagger.train_job import train_tagger
    from remodeler.cli.screen import note
    from remodeler.runs.records import load_record

    if train_tagger(aud.wish_of(given), out, dry_run):
        results = load_record(out).results
        _scored({name: Score(**part) for name, part in results["dev"].items()})
        if alarms := results["false_alarms"]:
            note(f"something was found in {alarms['found']:,} of {alarms['texts']:,} harmless texts not learned from")
        note(f"{out}: the tagger, report.html, training.jsonl, record.json; next: remodel audit predict --help")


def predict(
    texts: aud.Posts,
    out: aud.File,
    tagger: aud.TaggerFolder = Path("small-tagger"),
    likelihoods: aud.Likelihoods = False,
    decode: aud.Decode = None,
    threshold: aud.Threshold = None,
    abstain: aud.Abstain = None,
    fill: aud.Fill = None,
    trim: aud.Trim = None,
    words: aud.Words = None,
    shortest: aud.Shortest = None,
    int8: aud.Int8 = False,
    skip_bad: aud.SkipBad = False,
    device: opt.Device = "auto",
    trust_remote_code: opt.Trust = False,
) -> None:
    """Find the spans of all posts of a file, by the tagger's own rules or by others.

    Interrupted? The same command goes on.

    Example: `remodel audit predict --texts posts.csv --out spans-pred.txt`
    """
    given = dict(locals())
    from remodeler.auditing.tagger.predict_job import predict_file

    _counted(predict_file(texts, tagger, out, aud.how_of(given)), out)


def vote(
    members: aud.Members,
    out: aud.File,
    at_least: aud.Least = None,
    texts: aud.MemberTexts = None,
    likelihoods: aud.Likelihoods = False,
    int8: aud.Int8 = False,
    skip_bad: aud.SkipBad = False,
    device: opt.Device = "auto",
    trust_remote_code: opt.Trust = False,
) -> None:
    """Let prediction files or taggers vote: a character is inside when enough members say so.

    With `--likelihoods` the result has the mean of the members' likelihoods, from which a small tagger can learn.

    Example: `remodel audit vote one two three --texts posts.csv --at-least 2 --out spans-pred.txt`
    """
    given = dict(locals())
    from remodeler.auditing.tagger.predict_job import vote_file

    _counted(vote_file(members, texts, out, at_least, aud.how_of(given)), out)


def score(predictions: aud.Predictions, gold: aud.Gold, skip_bad: aud.SkipBad = False) -> None:
    """The official score of SemEval-2021 task 5: mean F1 of characters, its standard error, and its parts.

    Example: `remodel audit score spans-pred.txt tsd_trial.csv`
    """
    from remodeler.auditing.tagger.predict_job import score_files

    _scored(score_files(predictions, gold, skip_bad))


def convert(source: aud.Source, target: aud.Target, texts: aud.TextsOf = None, skip_bad: aud.SkipBad = False) -> None:
    """Predictions or gold spans from one kind of file to another; the names say which.

    Example: `remodel audit convert spans-pred.txt spans.conll --texts posts.csv`
    """
    from remodeler.auditing.tagger.predict_job import convert_file
    from remodeler.cli.screen import note

    note(f"{target}: {convert_file(source, target, texts, skip_bad):,} posts")


for part in (train, predict, vote, score, convert, lexicon, run):
    audit.command(cls=opt.Verb)(part)


def _scored(parts: dict[str, Any]) -> None:
    from remodeler.cli.screen import table

    rows = [
        [name, f"{each.f1:.4f}", f"{each.error:.4f}", f"{each.posts:,}"] for name, each in parts.items() if each.posts
    ]
    table("", ["posts", "F1", "standard error", "count"], rows)


def _counted(rows: Any, out: Any) -> None:
    from remodeler.cli.screen import note

    found = sum(bool(row.spans) for row in rows)
    note(f"{out}: {len(rows):,} posts, {found:,} with spans")
