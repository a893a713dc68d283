"""The options of ``remodel audit train``, ``predict``, ``vote``, ``score`` and ``convert``, and what they make."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

DATA, HEAD, HOW, RULES = "Posts", "What stands on the encoder", "How it learns", "How spans are made"

Texts = Annotated[
    Path,
    typer.Option(help="Posts with spans: .csv, .jsonl, .json, .parquet (text, spans).", rich_help_panel=DATA),
]
Encoder = Annotated[
    str, typer.Option(help="Encoder to start from: a folder or a hub id, as BERT, ALBERT, RoBERTa, XLNet.")
]
Out = Annotated[Path, typer.Option("--out", help="New folder for the tagger.", show_default=False)]
Dev = Annotated[
    Path | None,
    typer.Option(help="Posts that choose epoch and thresholds. [default: --fold 1/10]", rich_help_panel=DATA),
]
Fold = Annotated[
    str | None,
    typer.Option(help="Hold out a part of the posts instead, as 1/5: for cross-validation.", rich_help_panel=DATA),
]
Teacher = Annotated[
    Path | None,
    typer.Option(help="Learn from predictions with likelihoods too (.jsonl, of the same texts).", rich_help_panel=DATA),
]
TeacherShare = Annotated[
    float, typer.Option("--teacher-share", help="How much these count beside the gold spans.", rich_help_panel=DATA)
]
Harmless = Annotated[
    Path | None,
    typer.Option(
        help="Texts without anything toxic, to learn from too (.txt, .csv, .jsonl); a tenth counts false alarms.",
        rich_help_panel=DATA,
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out rows that can't be read, and count them.", rich_help_panel=DATA)
]
Auxiliary = Annotated[
    str,
    typer.Option(
        help="Features: none, cls-add, cls-concat, layer-attention, layer-attention-cls, last-k.",
        rich_help_panel=HEAD,
    ),
]
Output = Annotated[str, typer.Option(help="linear, or crf: neighbouring tags count.", rich_help_panel=HEAD)]
Scheme = Annotated[
    str, typer.Option(help="Tags: io, or bio, which keeps neighbouring spans apart.", rich_help_panel=HEAD)
]
LastLayers = Annotated[int, typer.Option("--last-layers", help="Of last-k.", rich_help_panel=HEAD)]
Dropout = Annotated[float, typer.Option(help="Before the output layer.", rich_help_panel=HEAD)]
Length = Annotated[
    int, typer.Option(help="Pieces that are read at once; longer texts in windows.", rich_help_panel=HEAD)
]
Stride = Annotated[int, typer.Option(help="Pieces by which windows overlap.", rich_help_panel=HEAD)]
Epochs = Annotated[int, typer.Option(help="Times that the posts are read.", rich_help_panel=HOW)]
Batch = Annotated[int, typer.Option("--batch", help="Posts a step, at most.", rich_help_panel=HOW)]
Tokens = Annotated[int, typer.Option(help="Tokens a step with padding, at most.", rich_help_panel=HOW)]
LearningRate = Annotated[float, typer.Option("--learning-rate", help="Of the encoder.", rich_help_panel=HOW)]
HeadRate = Annotated[float, typer.Option("--head-rate", help="Of what stands on it.", rich_help_panel=HOW)]
Warmup = Annotated[float, typer.Option(help="Share of the steps in which the rates grow.", rich_help_panel=HOW)]
Decay = Annotated[
    float, typer.Option("--weight-decay", help="Of matrices, not of biases and norms.", rich_help_panel=HOW)
]
Clip = Annotated[float, typer.Option(help="Largest norm of a step's gradient.", rich_help_panel=HOW)]
Loss = Annotated[str, typer.Option(help="cross-entropy, focal or dice.", rich_help_panel=HOW)]
Seed = Annotated[int, typer.Option(help="Of the head, the order and the dropout.", rich_help_panel=HOW)]

Decode = Annotated[
    str | None, typer.Option(help="threshold, or viterbi: the tags that are best together.", rich_help_panel=RULES)
]
Threshold = Annotated[
    float | None, typer.Option(help="Likelihood from which a character is inside.", rich_help_panel=RULES)
]
Abstain = Annotated[
    float | None, typer.Option(help="Likelihood that some character of a text must have.", rich_help_panel=RULES)
]
Fill = Annotated[
    bool | None, typer.Option("--fill/--no-fill", help="Gaps between pieces inside are inside.", rich_help_panel=RULES)
]
Trim = Annotated[
    bool | None, typer.Option("--trim/--no-trim", help="No white space at a span's ends.", rich_help_panel=RULES)
]
Words = Annotated[
    bool | None, typer.Option("--words/--no-words", help="Spans grow to whole words.", rich_help_panel=RULES)
]
Shortest = Annotated[int | None, typer.Option(help="Characters a span must have.", rich_help_panel=RULES)]

Posts = Annotated[
    Path,
    typer.Option("--texts", help="Posts: .csv, .jsonl, .json, .parquet, or .txt (one a line).", show_default=False),
]
TaggerFolder = Annotated[
    Path,
    typer.Option("--tagger", help="Folder that `remodel audit train` made, or small-tagger, which travels along."),
]
File = Annotated[
    Path,
    typer.Option(
        "--out",
        help="New file: .txt or .zip (SemEval), .jsonl (spans with scores), .conll, .csv.",
        show_default=False,
    ),
]
Likelihoods = Annotated[
    bool, typer.Option("--likelihoods", help="Keep the likelihoods of all characters too (.jsonl).")
]
Int8 = Annotated[bool, typer.Option("--int8", help="Linear layers in 8-bit integers: faster on a CPU, a little off.")]
Members = Annotated[list[Path], typer.Argument(help="Prediction files, or folders of taggers.", show_default=False)]
MemberTexts = Annotated[Path | None, typer.Option("--texts", help="Posts that taggers are to predict.")]
Least = Annotated[int | None, typer.Option("--at-least", help="Votes that a character needs. [default: a majority]")]
Predictions = Annotated[Path, typer.Argument(help="Predictions: .txt, .zip, .jsonl, .conll.", show_default=False)]
Gold = Annotated[Path, typer.Argument(help="Gold spans: .csv, .json, .parquet, or as predictions.", show_default=False)]
Source = Annotated[Path, typer.Argument(help="Predictions or gold spans.", show_default=False)]
Target = Annotated[Path, typer.Argument(help="New file: .txt, .zip, .jsonl, .conll or .csv.", show_default=False)]
TextsOf = Annotated[Path | None, typer.Option("--texts", help="Posts, where the source has no texts.")]

RULE_NAMES = ("decode", "threshold", "abstain", "fill", "trim", "words", "shortest")


def changed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The rules that were given."""
    return {name: given[name] for name in RULE_NAMES if given.get(name) is not None}


def wish_of(given: Mapping[str, Any]) -> Any:
    """Which tagger the options ask for."""
    from remodeler.auditing.tagger.config import Course
    from remodeler.auditing.tagger.model import Head
    from remodeler.auditing.tagger.rules import Rules
    from remodeler.auditing.tagger.train_job import Wish

    same = ("texts", "encoder", "dev", "fold", "teacher", "harmless", "length", "stride", "skip_bad", "device")
    return Wish(
        head=Head(**_of(Head, given)),
        course=Course(**_of(Course, given)),
        rules=Rules(**changed(given)),
        **{name: given[name] for name in (*same, "trust_remote_code")},
    )


def _of(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are fields of a value."""
    return {each.name: given[each.name] for each in fields(kind) if each.name in given}


def how_of(given: Mapping[str, Any]) -> Any:
    """How taggers are to be used."""
    from remodeler.auditing.tagger.predict_job import How

    same = ("likelihoods", "int8", "skip_bad", "device", "trust_remote_code")
    return How(rules=changed(given), **{name: given[name] for name in same})
