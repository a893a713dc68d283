"""Options of ``remodel align answer``, ``judge`` and ``compare``.

Names of formats and judges stand here, because help must not load torch; a test holds the tables against them.
"""

from pathlib import Path
from typing import Annotated, Any

from remodeler.alignment.config import DATA, Limit, PreferenceSource, ReviserLike
from remodeler.checkpoint.config import LoadConfig, ModelConfig, ModelLike, refuse_non_model
from remodeler.errors import InputError, option
from remodeler.generation.config import GENERATION, DecodingConfig
from remodeler.runs.config import OUTPUT, FolderConfig
from remodeler.runs.options import Option, config

JUDGE = "Judge"
FORMATS = ("alpaca_eval", "mt_bench")
JUDGES = ("likelihood", "reviser")
Seed = Annotated[int, Option(GENERATION, help="Random seed of the answers.")]


@config
class AnswerConfig:
    """Answer questions with a model, in a file that the judges of AlpacaEval or MT-Bench read.

    Resumable: rerun the same command.

    Example: `remodel align answer evolved --questions prompts.jsonl --out outputs.json`
    """

    source: ModelConfig
    questions: Annotated[str, Option(DATA)]
    """Prompts: .txt (one per line), .jsonl, .json, .csv, .parquet; with `format='mt_bench'` MT-Bench's
    question.jsonl."""
    out: Annotated[Path, Option(OUTPUT)]
    """New file for the answers."""
    format: Annotated[str, Option(DATA, FORMATS)] = "alpaca_eval"
    """Format of the answers: alpaca_eval (.json) or mt_bench (.jsonl)."""
    limit: Limit = None
    """Use only the first N questions."""
    decoding: DecodingConfig = DecodingConfig(temperature=0.0, top_p=1.0)
    seed: Seed = 42


@config
class JudgeConfig:
    """Compute win rates and ratings, from a judge's verdicts; or judge the answers of two models with a local model.

    Example: `remodel align judge outputs.json --against baseline.json --judge large-model`
    """

    answers: Annotated[Path, Option(positional=True)]
    """Verdicts: AlpacaEval's annotations (.json) or MT-Bench's judgements (.jsonl). Or answers to be judged:
    AlpacaEval's outputs (.json)."""
    against: Annotated[Path | None, Option(DATA)] = None
    """The baseline's answers to the same questions (.json), where answers are to be judged."""
    judge: Annotated[Any, Option(JUDGE)] = None
    """Model or reviser that judges the answers: a folder, or an id on the Hugging Face Hub."""
    by: Annotated[str, Option(JUDGE, JUDGES)] = "likelihood"
    """What makes an answer better: likelihood (a model finds it more probable) or reviser (a reviser gives it a higher
    quality)."""
    out: Annotated[Path | None, Option(OUTPUT)] = None
    """New file for the verdicts, in the format of AlpacaEval's annotations (.json)."""
    loading: LoadConfig = LoadConfig()

    def __post_init__(self) -> None:
        if self.against is not None and self.judge is None:
            raise InputError(f"two files of outputs need a judge: name a model or a reviser with {option('judge')}")


@config
class TableConfig(FolderConfig):
    """Where a comparison goes."""

    out: Annotated[Path | None, Option(OUTPUT, default="print the table only")] = None
    """New folder for record.json and report.html."""


@config
class CompareConfig:
    """Compare policies on held-out preferences: which answers they find likelier, and the quality of their own.

    Example: `remodel align compare policy evolved by-dpo --preferences held-out.jsonl --reviser reviser`
    """

    policies: Annotated[tuple[ModelLike, ...], Option(positional=True)]
    """Models: folders, or ids on the Hugging Face Hub."""
    data: PreferenceSource
    reviser: Annotated[ReviserLike, Option(JUDGE)] = None
    """A reviser, which scores the quality of the policies' own answers."""
    limit: Limit = None
    """Use only the first N pairs."""
    decoding: DecodingConfig = DecodingConfig()
    seed: Seed = 42
    loading: LoadConfig = LoadConfig()
    run: TableConfig = TableConfig()

    def __post_init__(self) -> None:
        if not self.policies:
            raise InputError(f"no {option('policies')} were given: name at least one")
        refuse_non_model("policies", *self.policies)
