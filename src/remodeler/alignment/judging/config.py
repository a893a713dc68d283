"""Options of ``remodel align answer``, ``judge`` and ``compare``.

Names of formats and judges stand here, because help must not load torch; a test holds the tables against them.
"""

from pathlib import Path
from typing import Annotated, Any

from remodeler.alignment.config import DATA, Limit, PreferenceSource, ReviserLike, Seed
from remodeler.checkpoint.config import LoadConfig, ModelConfig, ModelLike, refuse_non_model
from remodeler.errors import InputError, option
from remodeler.generation.config import DecodingConfig
from remodeler.runs.config import FolderConfig
from remodeler.runs.options import Option, config

JUDGE = "Judge"
FORMATS = ("alpaca_eval", "mt_bench")
JUDGES = ("likelihood", "reviser")


@config
class AnswerConfig:
    """Write a model's answers in the format that the judges of AlpacaEval or MT-Bench read.

    Resumable: rerun the same command.

    Example: `remodel align answer evolved --questions prompts.jsonl --out outputs.json`
    """

    source: ModelConfig
    questions: Annotated[str, Option(DATA)]
    """Prompts, or MT-Bench's question.jsonl with format mt_bench."""
    out: Path
    """New file for the answers."""
    format: Annotated[str, Option(DATA, FORMATS)] = "alpaca_eval"
    """Format of the answers: alpaca_eval (.json) or mt_bench (.jsonl)."""
    limit: Limit = None
    """Use at most so many questions, from the start."""
    decoding: DecodingConfig = DecodingConfig(temperature=0.0, top_p=1.0)
    seed: Seed = 42


@config
class JudgeConfig:
    """Compute win rates and ratings: from files that a judge wrote, or of two models' answers with a local judge.

    Example: `remodel align judge outputs.json --against baseline.json --judge large-model`
    """

    answers: Annotated[Path, Option(positional=True)]
    """AlpacaEval's outputs or annotations (.json), or MT-Bench's judgements (.jsonl)."""
    against: Annotated[Path | None, Option(DATA)] = None
    """Outputs of the baseline."""
    judge: Annotated[Any, Option(JUDGE)] = None
    """A local model or a reviser, which judges the outputs."""
    by: Annotated[str, Option(JUDGE, JUDGES)] = "likelihood"
    """Criterion of the judge: likelihood (of a model), or reviser (its quality)."""
    out: Path | None = None
    """New file for the annotations, in AlpacaEval's format."""
    loading: LoadConfig = LoadConfig()

    def __post_init__(self) -> None:
        if self.against is not None and self.judge is None:
            raise InputError(f"two files of outputs need a judge: name a model or a reviser with {option('judge')}")


@config
class TableConfig(FolderConfig):
    """Where a comparison goes."""

    out: Path | None = None
    """New folder for record.json and report.html."""


@config
class CompareConfig:
    """Compare policies on preferences that none has learned from.

    Example: `remodel align compare policy evolved by-dpo --preferences held-out.jsonl --reviser reviser`
    """

    policies: Annotated[tuple[ModelLike, ...], Option(positional=True)]
    """Model folders or hub ids."""
    data: PreferenceSource
    reviser: Annotated[ReviserLike, Option(JUDGE)] = None
    """A reviser that scores the answers too."""
    limit: Limit = None
    """Use at most so many pairs."""
    decoding: DecodingConfig = DecodingConfig()
    seed: Seed = 42
    loading: LoadConfig = LoadConfig()
    run: TableConfig = TableConfig()

    def __post_init__(self) -> None:
        if not self.policies:
            raise InputError(f"no {option('policies')} were given: name at least one")
        refuse_non_model("policies", *self.policies)
