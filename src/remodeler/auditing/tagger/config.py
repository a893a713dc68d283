"""Options of ``remodel audit train``, ``predict`` and ``vote``: of a tagger, how it learns, how spans are made.

Names of features, losses and so on stand here, because help must not load torch; a test holds the tables against them.
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from remodeler.checkpoint.config import DeviceConfig
from remodeler.errors import InputError, option
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
    """Features of a token: none (last layer), cls-add, cls-concat, layer-attention, layer-attention-cls, last-k."""
    output: Annotated[str, Option(HEAD, OUTPUTS)] = "linear"
    """linear, or crf (conditional random field: neighbouring tags depend on each other)."""
    scheme: Annotated[str, Option(HEAD, SCHEMES)] = "io"
    """Tagging scheme: io, or bio, which separates adjacent spans."""
    last_layers: Annotated[int, Option(HEAD, low=1)] = 4
    """last-k: number of layers."""
    dropout: Annotated[float, Option(HEAD, low=0, below=1)] = 0.1
    """Dropout before the output layer."""


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
    """Number of epochs."""
    train_batch_size: Annotated[int, Option(TRAINING, low=1)] = 16
    """Posts per optimizer step, at most."""
    tokens_per_step: Annotated[int, Option(TRAINING, low=1)] = 2048
    """Tokens per optimizer step, padding included, at most."""
    learning_rate: Annotated[float, Option(TRAINING, above=0)] = 1e-4
    """Peak learning rate of the encoder."""
    head_rate: Annotated[float, Option(TRAINING, above=0)] = 1e-3
    """Peak learning rate of the head."""
    warmup: Annotated[float, Option(TRAINING, low=0, high=1)] = 0.1
    """Share of the steps in which the learning rates grow."""
    weight_decay: Annotated[float, Option(TRAINING, low=0)] = 0.01
    """Weight decay (biases, norms and CRF scores excluded)."""
    clip: Annotated[float, Option(TRAINING, above=0)] = 1.0
    """Maximum gradient norm."""
    loss: Annotated[str, Option(TRAINING, LOSSES)] = "cross-entropy"
    """cross-entropy, focal or dice."""
    seed: Annotated[int, Option(TRAINING)] = 42
    """Random seed."""
    save_minutes: Annotated[float, Option(TRAINING, low=0, python_only=True)] = 10.0
    """Minutes between two saved training states."""


@config
class RulesConfig:
    """How spans are made of likelihoods; None leaves what the tagger has."""

    decode: Annotated[str | None, Option(RULES, DECODERS, default="the tagger's own")] = None
    """threshold, or viterbi (the most likely tag sequence)."""
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
    """Likelihood from which a character is inside a span."""
    abstain: Annotated[float | None, Option(RULES, low=0, high=1, default="the tagger's own")] = None
    """Maximum likelihood below which a text has no span."""


@config
class TrainConfig:
    """Train a tagger: an encoder, features of its layers, and a CRF or a linear layer.

    After every epoch the official F1 on the development posts is measured; the best epoch is kept, with the threshold
    and the abstention that suit it. Resumable: rerun the same command.

    Example: `remodel audit train --texts tsd_train.csv --dev tsd_trial.csv --encoder MiniLM --out tagger`
    """

    texts: Annotated[Path, Option(POSTS)]
    """Posts with spans: .csv, .jsonl, .json, .parquet (columns text and spans)."""
    encoder: str
    """Encoder to start from: a folder or a hub id of a BERT, ALBERT, RoBERTa or XLNet model, for example."""
    dev: Annotated[Path | None, Option(POSTS, default="a fold of 1/10")] = None
    """Development posts, which choose the epoch and the thresholds."""
    fold: Annotated[str | None, Option(POSTS)] = None
    """Hold out one part of the posts instead, e.g. 1/5 (for cross-validation)."""
    teacher: Annotated[Path | None, Option(POSTS)] = None
    """Predictions with likelihoods of the same texts to learn from as well (.jsonl)."""
    teacher_share: Annotated[float, Option(POSTS, low=0, high=1)] = 0.5
    """Weight of the teacher's likelihoods beside the gold spans."""
    harmless: Annotated[Path | None, Option(POSTS)] = None
    """Texts without toxic spans to learn from as well (.txt, .csv, .jsonl); a tenth is held out to count false
    alarms."""
    skip_bad: Annotated[bool, Option(POSTS)] = False
    """Leave out rows that can't be read, and count them."""
    head: HeadConfig = HeadConfig(auxiliary="layer-attention-cls", output="crf")
    window: WindowConfig = WindowConfig()
    training: TrainingConfig = TrainingConfig()
    rules: RulesConfig = RulesConfig(decode="threshold", fill=True, trim=True, words=False, shortest=1)
    placement: DeviceConfig = DeviceConfig()
    out: Path
    """New folder for the tagger."""
    dry_run: bool = False
    """Say what would be done, and how long it would take; write nothing."""

    def __post_init__(self) -> None:
        if self.dev and self.fold:
            raise InputError(f"{option('dev')} and {option('fold')} were given: give one of them")


@config
class PredictConfig:
    """Find the spans of all posts of a file, by the tagger's own rules or by others.

    Resumable: rerun the same command.

    Example: `remodel audit predict --texts posts.csv --out spans-pred.txt`
    """

    texts: Path
    """Posts: .csv, .jsonl, .json, .parquet, or .txt (one per line)."""
    out: Annotated[Path | None, Option(required=True)] = None
    """New file: .txt or .zip (SemEval), .jsonl (spans with scores), .conll, .csv."""
    tagger: Any = SMALL_TAGGER
    """A folder made by `remodel audit train`, or small-tagger (bundled)."""
    likelihoods: bool = False
    """Keep the likelihoods of all characters too (.jsonl)."""
    int8: bool = False
    """Linear layers in 8-bit integers: faster on a CPU, slightly less exact."""
    skip_bad: bool = False
    """Leave out rows that can't be read, and count them."""
    rules: PredictionRulesConfig = PredictionRulesConfig()
    placement: DeviceConfig = DeviceConfig()


@config
class VoteConfig:
    """Let prediction files or taggers vote: a character is in a span when enough members agree.

    With `--likelihoods` the result holds the mean of the members' likelihoods, from which a small tagger can learn.

    Example: `remodel audit vote one two three --texts posts.csv --at-least 2 --out spans-pred.txt`
    """

    members: Annotated[tuple[Any, ...], Option(positional=True)]
    """Prediction files, or folders of taggers."""
    out: Annotated[Path | None, Option(required=True)] = None
    """New file: .txt or .zip (SemEval), .jsonl (spans with scores), .conll, .csv."""
    at_least: Annotated[int | None, Option(low=1, default="a majority")] = None
    """Number of votes that a character needs."""
    texts: Path | None = None
    """Posts for members that are taggers."""
    likelihoods: bool = False
    """Keep the mean likelihoods of all characters too (.jsonl)."""
    int8: bool = False
    """Linear layers in 8-bit integers: faster on a CPU, slightly less exact."""
    skip_bad: bool = False
    """Leave out rows that can't be read, and count them."""
    placement: DeviceConfig = DeviceConfig()
