"""Options of ``remodel audit``, and of its parts that need no tagger: lexicon, score and convert.

Help loads this module, so it imports neither torch nor transformers.
"""

from pathlib import Path
from typing import Annotated, Any

from remodeler.checkpoint.config import LoadConfig, ModelLike, refuse_non_model
from remodeler.errors import InputError, option
from remodeler.generation.config import SamplingConfig
from remodeler.runs.config import OUTPUT
from remodeler.runs.options import Option, config, listed

INPUTS, DETECTOR, LEXICON = "Inputs", "Detector", "Lexicon"


@config
class DetectorConfig:
    """A detector of spans, and its threshold and labels."""

    detector: Annotated[Any, Option(DETECTOR)] = "lexicon"
    """What finds toxic spans: lexicon or small-tagger (both bundled), a lexicon .json, a tagger folder, or a token or
    sequence classifier of transformers (folder or Hub id)."""
    threshold: Annotated[float | None, Option(DETECTOR, low=0, high=1, default="0.5, or the tagger's own")] = None
    """Classifiers and taggers: minimum probability of a span that is reported."""
    labels: Annotated[tuple[str, ...], Option(DETECTOR, read=listed, default="all but those with harmless names")] = ()
    """Classifiers: labels that count as toxic, separated by commas."""
    whole: Annotated[bool, Option(DETECTOR)] = False
    """Sequence classifiers: classify whole texts instead of sentences."""


@config
class AuditConfig:
    """Find and count toxic spans in texts, or in what a model writes, alone or compared with another model.

    Prints counts, not quotes; the report blurs offensive text. Confidence intervals and the test of a difference
    resample prompts. Resumable: rerun the same command.

    Example: `remodel audit --texts posts.csv`

    Example: `remodel audit dense --against pruned --prompts prompts.txt --out audited`
    """

    model: Annotated[ModelLike, Option(positional=True)] = None
    """A model whose completions are audited: a folder, or an id on the Hugging Face Hub."""
    texts: Annotated[Path | None, Option(INPUTS)] = None
    """Texts to audit, instead of a model: .csv, .jsonl, .json, .parquet, or .txt (one per line)."""
    prompts: Annotated[str | None, Option(INPUTS)] = None
    """Prompts that the model completes: .txt (one per line), .csv, .jsonl, .json, .parquet, or
    hf:NAME[:CONFIG][:SPLIT]."""
    against: Annotated[ModelLike, Option(INPUTS)] = None
    """A second model that completes the same prompts, to test the difference between both."""
    prompt_words: Annotated[int | None, Option(INPUTS, low=1, default="all")] = None
    """Use only the first N words of each prompt."""
    limit: Annotated[int | None, Option(INPUTS, low=1, default="all")] = None
    """Use only the first N prompts or texts."""
    skip_bad: Annotated[bool, Option(INPUTS)] = False
    """Leave out rows that can't be read, and count them, instead of stopping at the first."""
    detection: DetectorConfig = DetectorConfig()
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=64, top_p=1.0)
    seed: Annotated[int, Option("Generation")] = 42
    """Random seed of completions and confidence intervals."""
    loading: LoadConfig = LoadConfig()
    revision: Annotated[str | None, Option("Model")] = None
    """Branch, tag or commit of MODEL on the Hub."""
    out: Annotated[Path | None, Option(OUTPUT, default="print the counts only")] = None
    """New folder for record.json, report.html and spans.jsonl."""
    show_quotes: Annotated[bool, Option(OUTPUT, command_only=True)] = False
    """Print the spans that were found too. The words are offensive."""
    dry_run: Annotated[bool, Option(OUTPUT)] = False
    """Check everything, print the plan and the expected time, and write nothing."""

    def __post_init__(self) -> None:
        refuse_non_model("model", self.model)
        refuse_non_model("against", self.against)
        models, texts = self.model is not None, self.texts is not None
        if not models and self.against is not None:
            raise InputError(f"{option('against')} was given without a {option('model')}: name that too")
        if models == texts:
            given = "both" if models else "neither"
            raise InputError(f"{given} of a {option('model')} and {option('texts')} were given: give one of them")
        if models and self.prompts is None:
            raise InputError(f"{option('model')} was given without {option('prompts')} to complete: give them")
        if texts and (self.prompts or self.prompt_words):
            parts = f"{option('prompts')} and {option('prompt_words')}"
            raise InputError(f"{option('texts')} was given, but {parts} are for a {option('model')}: leave them out")
        if models and _same(self.model, self.against):
            raise InputError(f"{option('model')} and {option('against')} are the same: give another model")

    @property
    def models(self) -> tuple[ModelLike, ...]:
        """One or two models, the second to compare with; none where texts are audited."""
        return tuple(each for each in (self.model, self.against) if each is not None)


def _same(one: ModelLike, other: ModelLike) -> bool:
    """Whether two models are one: by path or hub id, or the same object."""
    paths = isinstance(one, str | Path) and isinstance(other, str | Path)
    return str(one) == str(other) if paths else one is other


@config
class LexiconConfig:
    """Learn a lexicon from texts with spans: the words that are mostly inside toxic spans.

    Example: `remodel audit lexicon --texts tsd_train.csv --out words.json`
    """

    texts: Annotated[Path, Option(INPUTS)]
    """Texts with spans: .csv, .jsonl, .json or .parquet (columns text and spans)."""
    out: Annotated[Path | None, Option(OUTPUT, required=True)] = None
    """New lexicon file (.json)."""
    rate: Annotated[float, Option(LEXICON, above=0, high=1)] = 0.6
    """Minimum share of a word's occurrences that are inside spans, from 0 to 1."""
    hits: Annotated[int, Option(LEXICON, low=1)] = 3
    """Minimum number of a word's occurrences inside spans."""
    without: Annotated[tuple[str, ...], Option(LEXICON, read=listed)] = ()
    """Words to leave out, separated by commas, e.g. names of groups of people."""
    hashed: Annotated[bool, Option(LEXICON)] = False
    """Write hashes of the words instead of the words, so that the file shows no offensive word."""
    skip_bad: Annotated[bool, Option(INPUTS)] = False
    """Leave out rows that can't be read, and count them, instead of stopping at the first."""


@config
class ScoreConfig:
    """Score predicted spans as SemEval-2021 task 5 does: mean character F1 with its standard error, of all posts and
    of those with and without gold spans.

    Example: `remodel audit score spans-pred.txt tsd_trial.csv`
    """

    predictions: Annotated[Path, Option(positional=True)]
    """Predicted spans: .txt or .zip (SemEval), .jsonl or .conll."""
    gold: Annotated[Path, Option(positional=True)]
    """Gold spans of the same posts: .csv, .json, .parquet, or a file like the predictions."""
    skip_bad: bool = False
    """Leave out rows that can't be read, and count them, instead of stopping at the first."""


@config
class ConvertConfig:
    """Convert predicted or gold spans to another file format; the ends of the file names say which.

    Example: `remodel audit convert spans-pred.txt spans.conll --texts posts.csv`
    """

    source: Annotated[Path, Option(positional=True)]
    """File with predicted or gold spans."""
    target: Annotated[Path, Option(positional=True)]
    """New file: .txt, .zip, .jsonl, .conll or .csv."""
    texts: Path | None = None
    """File with the texts of the posts, where the source holds none."""
    skip_bad: bool = False
    """Leave out rows that can't be read, and count them, instead of stopping at the first."""
