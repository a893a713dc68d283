"""Options of ``remodel audit train``, ``predict`` and ``vote``: of a tagger, how it learns, how spans are made.

Names of features, losses and so on stand here, because help must not load torch; a test holds the tables against them.
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from remodeler.checkpoint.config import DeviceConfig
from remodeler.errors import InputError, option
from remodeler.runs.config import OUTPUT
from remodeler.runs.options import Option, config

POSTS, HEAD, TRAINING, RULES = "Posts", "Head", "Training", "Span rules"
AUXILIARIES = ("none", "cls-add", "cls-concat", "layer-attention", "layer-attention-cls", "last-k")
OUTPUTS = ("linear", "crf")
SCHEMES = ("io", "bio")
LOSSES = ("cross-entropy", "focal", "dice")
DECODERS = ("threshold", "viterbi")
SMALL_TAGGER = "small-tagger"
"""Name of the bundled tagger; docs/benchmarks/auditing.md says how it was made and what it scores."""


@config
class HeadConfig:
    """The layers on top of the encoder."""

    auxiliary: Annotated[str, Option(HEAD, AUXILIARIES)] = "none"
    """What the head sees of a token: its last layer (none), with CLS added (cls-add) or appended (cls-concat), weighted
    layers (layer-attention), those with CLS (layer-attention-cls), or last-k layers."""
    output: Annotated[str, Option(HEAD, OUTPUTS)] = "linear"
    """Output layer: linear, or crf (conditional random field: neighbouring tags depend on each other)."""
    scheme: Annotated[str, Option(HEAD, SCHEMES)] = "io"
    """Tags: io (inside, outside), or bio (with beginnings, which separates adjacent spans)."""
    last_layers: Annotated[int, Option(HEAD, low=1)] = 4
    """With `auxiliary='last-k'`: number of layers."""
    dropout: Annotated[float, Option(HEAD, low=0, below=1)] = 0.1
    """Dropout probability before the output layer."""


@config
class WindowConfig:
    """How texts that are too long for the encoder are split."""

    length: Annotated[int, Option(HEAD, low=1)] = 256
    """Tokens per window; longer texts are split."""
    stride: Annotated[int, Option(HEAD, low=0)] = 64
    """Tokens by which windows overlap."""


@config
class TrainingConfig:
    """How a tagger learns."""

    epochs: Annotated[int, Option(TRAINING, low=1)] = 3
    """Number of passes over the training posts."""
    train_batch_size: Annotated[int, Option(TRAINING, low=1)] = 16
    """Maximum number of posts per optimizer step."""
    tokens_per_step: Annotated[int, Option(TRAINING, low=1)] = 2048
    """Maximum number of tokens per optimizer step, padding included."""
    learning_rate: Annotated[float, Option(TRAINING, above=0)] = 1e-4
    """Peak learning rate of the encoder (AdamW)."""
    head_rate: Annotated[float, Option(TRAINING, above=0)] = 1e-3
    """Peak learning rate of the head."""
    warmup: Annotated[float, Option(TRAINING, low=0, high=1)] = 0.1
    """Share of the steps in which the learning rates grow linearly."""
    weight_decay: Annotated[float, Option(TRAINING, low=0)] = 0.01
    """Weight decay (biases, norms and CRF scores excluded)."""
    clip: Annotated[float, Option(TRAINING, above=0)] = 1.0
    """Maximum gradient norm."""
    loss: Annotated[str, Option(TRAINING, LOSSES)] = "cross-entropy"
    """Loss: cross-entropy, focal, or dice (the latter two for rare spans)."""
    seed: Annotated[int, Option(TRAINING)] = 42
    """Random seed."""
    save_minutes: Annotated[float, Option(TRAINING, low=0, python_only=True)] = 10.0
    """Minutes between two saved training states."""


@config
class RulesConfig:
    """How spans are made of likelihoods; None leaves what the tagger has."""

    decode: Annotated[str | None, Option(RULES, DECODERS, default="the tagger's own")] = None
    """How tags become spans: threshold (on each token's probability), or viterbi (the most likely sequence of tags)."""
    fill: Annotated[bool | None, Option(RULES, default="the tagger's own")] = None
    """Include the gaps between neighbouring tokens of a span."""
    trim: Annotated[bool | None, Option(RULES, default="the tagger's own")] = None
    """Strip white space at both ends of a span."""
    words: Annotated[bool | None, Option(RULES, default="the tagger's own")] = None
    """Extend spans to whole words."""
    shortest: Annotated[int | None, Option(RULES, low=1, default="the tagger's own")] = None
    """Minimum number of characters of a span."""

    def given(self) -> dict[str, Any]:
        """The rules that were given."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@config
class PredictionRulesConfig(RulesConfig):
    """All rules, also those that training chooses."""

    threshold: Annotated[float | None, Option(RULES, low=0, high=1, default="the tagger's own")] = None
    """Minimum probability of a character inside a span."""
    abstain: Annotated[float | None, Option(RULES, low=0, high=1, default="the tagger's own")] = None
    """Report no span in a text in which no character reaches this probability."""


@config
class TrainConfig:
    """Train a tagger of toxic spans: an encoder with a linear or CRF layer on top.

    Every epoch is scored on the development posts by the F1 of SemEval-2021 task 5; the best one is kept, with its best
    thresholds. Resumable: rerun the same command.

    Example: `remodel audit train --texts tsd_train.csv --dev tsd_trial.csv --encoder MiniLM --out tagger`
    """

    texts: Annotated[Path, Option(POSTS)]
    """Training posts with spans: .csv, .jsonl, .json, .parquet (columns text and spans)."""
    encoder: Annotated[str, Option(HEAD)]
    """Encoder to start from, e.g. a BERT, ALBERT, RoBERTa or XLNet model: a folder, or an id on the Hub."""
    dev: Annotated[Path | None, Option(POSTS, default="a tenth of the posts")] = None
    """Development posts, by which the epoch and the thresholds are chosen."""
    fold: Annotated[str | None, Option(POSTS)] = None
    """Hold out this part of the posts as development posts: 2/5 is the second fifth, as in cross-validation."""
    teacher: Annotated[Path | None, Option(POSTS)] = None
    """Predictions of the same posts to learn from too, made by `remodel audit predict --likelihoods` (.jsonl)."""
    teacher_share: Annotated[float, Option(POSTS, low=0, high=1)] = 0.5
    """With `teacher`: weight of its predictions, from 0 to 1; the gold spans have the rest."""
    harmless: Annotated[Path | None, Option(POSTS)] = None
    """Texts without toxic spans to learn from too (.txt, .csv, .jsonl); a tenth is held out, to count false alarms."""
    skip_bad: Annotated[bool, Option(POSTS)] = False
    """Leave out rows that can't be read, and count them, instead of stopping at the first."""
    head: HeadConfig = HeadConfig(auxiliary="layer-attention-cls", output="crf")
    window: WindowConfig = WindowConfig()
    training: TrainingConfig = TrainingConfig()
    rules: RulesConfig = RulesConfig(decode="threshold", fill=True, trim=True, words=False, shortest=1)
    placement: DeviceConfig = DeviceConfig()
    out: Annotated[Path, Option(OUTPUT)]
    """New folder for the tagger."""
    dry_run: Annotated[bool, Option(OUTPUT)] = False
    """Check everything, print the plan and the expected time, and write nothing."""

    def __post_init__(self) -> None:
        if self.dev and self.fold:
            raise InputError(f"{option('dev')} and {option('fold')} were given: give one of them")


@config
class PredictConfig:
    """Find the toxic spans in all posts of a file, with a tagger.

    Resumable: rerun the same command.

    Example: `remodel audit predict --texts posts.csv --out spans-pred.txt`
    """

    texts: Annotated[Path, Option(POSTS)]
    """Posts: .csv, .jsonl, .json, .parquet, or .txt (one per line)."""
    out: Annotated[Path | None, Option(OUTPUT, required=True)] = None
    """New file: .txt or .zip (SemEval), .jsonl (spans with scores), .conll, or .csv."""
    tagger: Annotated[Any, Option(POSTS)] = SMALL_TAGGER
    """A folder that `remodel audit train` wrote, or small-tagger (bundled)."""
    likelihoods: Annotated[bool, Option(OUTPUT)] = False
    """Write the probability of every character too (.jsonl only)."""
    int8: Annotated[bool, Option("Model")] = False
    """Compute linear layers in 8-bit integers: faster on a CPU, slightly less exact."""
    skip_bad: Annotated[bool, Option(POSTS)] = False
    """Leave out rows that can't be read, and count them, instead of stopping at the first."""
    rules: PredictionRulesConfig = PredictionRulesConfig()
    placement: DeviceConfig = DeviceConfig()


@config
class VoteConfig:
    """Combine prediction files or taggers by vote: a character is in a span where enough members say so.

    With `--likelihoods` the result also holds the members' mean probabilities, from which `audit train --teacher`
    can train one small tagger.

    Example: `remodel audit vote one two three --texts posts.csv --at-least 2 --out spans-pred.txt`
    """

    members: Annotated[tuple[Any, ...], Option(positional=True)]
    """Members that vote: files of predictions, or folders of taggers."""
    out: Annotated[Path | None, Option(OUTPUT, required=True)] = None
    """New file: .txt or .zip (SemEval), .jsonl (spans with scores), .conll, or .csv."""
    at_least: Annotated[int | None, Option(POSTS, low=1, default="more than half")] = None
    """Number of votes that a character needs."""
    texts: Annotated[Path | None, Option(POSTS)] = None
    """Posts, which members that are taggers predict."""
    likelihoods: Annotated[bool, Option(OUTPUT)] = False
    """Write the mean probability of every character too (.jsonl only)."""
    int8: Annotated[bool, Option("Model")] = False
    """Compute linear layers of taggers in 8-bit integers: faster on a CPU, slightly less exact."""
    skip_bad: Annotated[bool, Option(POSTS)] = False
    """Leave out rows that can't be read, and count them, instead of stopping at the first."""
    placement: DeviceConfig = DeviceConfig()
