"""Options of ``remodel align``: what is learned from, how revisers are trained and how policies evolve.

Help loads this module, so it imports neither torch nor transformers.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from remodeler.checkpoint.config import LoadConfig, ModelConfig, ModelLike, refuse_non_model
from remodeler.errors import InputError, option
from remodeler.generation.config import GenerationConfig, SamplingConfig
from remodeler.runs.config import FolderConfig, RunConfig
from remodeler.runs.options import Option, config, listed, share
from remodeler.training.config import OPTIMIZATION, AdapterConfig, MemoryConfig, OptimizationConfig, Schedule

DATA, LABELS, ROUNDS, FILTERS, WARM_UP = "Data", "Labels", "Rounds", "Filters", "Warm-up"
MEASURES = ("gain", "perplexity", "edit")
"""Measures of how much a response has to change: see :mod:`remodeler.alignment.reviser.difficulty`."""
INTERNAL, EXTERNAL = "internal", "external"
ROUND_KINDS = (INTERNAL, EXTERNAL)
REVISER, POLICY = "reviser", "policy"
"""Folders that the whole alignment writes."""
EPOCHS, BATCH_SIZE, WARMUP, RANK, ALPHA = 2.0, 32, 0.03, 32, 32.0
SCHEDULE: Schedule = "cosine"
"""Defaults of training."""
ReviserLike = Any
"""A folder that ``remodel align train-reviser`` wrote, its hub id, or a loaded
:class:`~remodeler.alignment.reviser.reviser.Reviser`."""
Seed = Annotated[int, Option(OPTIMIZATION, help="Random seed.")]
Limit = Annotated[int | None, Option(DATA, low=1, default="all")]


# Parts ----------------------------------------------------------------------------------------------------------------


@config
class PreferenceSource:
    """Where preferences are."""

    preferences: Annotated[str, Option(DATA)]
    """Preferences: a .jsonl, .json or .parquet FILE, or hf:NAME[:CONFIG][:SPLIT]."""


@config
class PreferenceConfig(PreferenceSource):
    """Preferences to learn from, and how many of them are held out."""

    held_out_share: Annotated[float, Option(DATA, above=0, below=1, read=share)] = 0.1
    """Share of the prompts that is held out."""
    pairs: Annotated[int | None, Option(DATA, low=1, default="all")] = None
    """Pairs per prompt, where a prompt has a list of answers."""
    score_gap: Annotated[float, Option(DATA, low=0)] = 0.0
    """Minimum difference in score, where a prompt has a list of answers."""
    length: Annotated[int | None, Option(DATA, low=1, default="2048, or the model's context")] = None
    """Tokens per example, at most."""


@config
class LabelConfig:
    """Labels of how much a response has to change: NONE, MINOR or MAJOR."""

    template: Annotated[Path | None, Option(LABELS)] = None
    """JSON file with other words around prompt and response."""
    difficulty: Annotated[str, Option(LABELS, MEASURES)] = "gain"
    """Measure that decides what is MAJOR: gain (in log-probability), perplexity or edit (distance)."""
    major_share: Annotated[float, Option(LABELS, above=0, below=1, read=share)] = 0.5
    """Share of the triples that are MAJOR."""
    none_share: Annotated[float, Option(LABELS, low=0, below=1, read=share)] = 1 / 3
    """Share of all examples that are NONE."""
    gain_floor: Annotated[float | None, Option(LABELS)] = None
    """Triples with a lower gain are NONE too."""
    label_weight: Annotated[float, Option(LABELS, low=0)] = 1.0
    """Weight of a label in the loss, where a whole text has 1."""


@config
class WarmUpConfig:
    """The reviser that learns to rewrite before labels are known."""

    warm_up_epochs: Annotated[float, Option(WARM_UP, above=0)] = 1.0
    """Number of epochs of the warm-up reviser."""
    copies: Annotated[float, Option(WARM_UP, low=0, high=1, read=share)] = 0.0
    """Examples of copying in the warm-up, as a share of the triples."""
    afresh: Annotated[bool, Option(WARM_UP)] = False
    """Start the adaptive reviser from the model itself instead of the warm-up reviser."""


@config
class PaceConfig(OptimizationConfig):
    """Length and speed of a phase of training."""

    learning_rate: Annotated[
        float | None, Option(OPTIMIZATION, above=0, default="2e-5; adapters 2e-4; dpo and orpo 1e-6")
    ] = None
    """Peak learning rate."""


@config
class TrainingConfig:
    """Training of a phase: of each reviser, and of the policy of each round."""

    optimization: PaceConfig = PaceConfig(epochs=EPOCHS, train_batch_size=BATCH_SIZE, schedule=SCHEDULE, warmup=WARMUP)
    memory: MemoryConfig = MemoryConfig()
    lora: AdapterConfig = AdapterConfig(adapters=False, rank=RANK, alpha=ALPHA, dropout=0.0)
    seed: Seed = 42

    @property
    def everything(self) -> bool:
        """Whether all parameters are trained, instead of adapters."""
        return not self.lora.adapters


@config
class EvolutionConfig:
    """The rounds in which a policy learns from its own answers."""

    prompts: Annotated[str, Option(DATA)]
    """Prompts without answers: .txt (one per line), .jsonl, .json, .csv, .parquet, or hf:NAME[:CONFIG][:SPLIT]."""
    limit: Limit = None
    """Use at most so many prompts, from the start."""
    probe: Annotated[int, Option(DATA, low=0)] = 64
    """Prompts set aside to measure the policy before the first round and after each (a tenth at most)."""
    rounds: Annotated[tuple[str, ...], Option(ROUNDS, read=listed)] = ROUND_KINDS
    """Kinds of the rounds, separated by commas: internal (learn the best answer) and external (learn its revision)."""
    restart: Annotated[bool, Option(ROUNDS)] = False
    """Train every round from the first policy instead of that of the round before."""
    use_labels: Annotated[bool, Option(ROUNDS)] = True
    """Select answers by their labels (or, negated, revise every first answer: a control)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounds", tuple(self.rounds))
        if not self.rounds or not set(self.rounds) <= set(ROUND_KINDS):
            given = ",".join(self.rounds)
            raise InputError(f"{option('rounds', given)} is unknown: name {' and '.join(ROUND_KINDS)}, by commas")


@config
class FilterConfig:
    """Conditions that an answer must meet before a policy learns from it."""

    min_quality: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.5
    """Minimum quality of an answer that is kept as it is."""
    min_confidence: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.4
    """Minimum probability of a label."""
    major_confidence: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.5
    """Minimum probability of the label MAJOR."""
    quality_slack: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.0
    """Maximum drop in quality from an answer to its revision."""
    shortest: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.3
    """Minimum length of a revision, relative to the answer's."""
    longest: Annotated[float, Option(FILTERS, low=1)] = 3.0
    """Maximum length of a revision, relative to the answer's."""
    max_repetition: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.3
    """Maximum share of 4-grams of words that are repeated."""


# Verbs ----------------------------------------------------------------------------------------------------------------


@config
class ReviserConfig:
    """Train a reviser: it labels how much of a response has to change (NONE, MINOR, MAJOR) and rewrites it.

    Learns from preferences in any usual shape. Resumable: rerun the same command. Several GPUs: `torchrun ... -m
    remodeler align train-reviser`.

    Example: `remodel align train-reviser Qwen/Qwen3-0.6B --preferences pairs.jsonl --out reviser`
    """

    source: ModelConfig
    data: PreferenceConfig
    limit: Limit = None
    """Use at most so many triples (a prompt, a better answer, a worse one)."""
    labels: LabelConfig = LabelConfig()
    warm_up: WarmUpConfig = WarmUpConfig()
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()


@config
class ReviseConfig:
    """Label and revise responses that somebody else wrote; the report shows what changed, word by word.

    Example: `remodel align revise --responses answers.jsonl --reviser reviser --out revised`
    """

    responses: Annotated[str, Option(DATA)]
    """Prompts with responses: .jsonl, .json, .csv, .parquet, or hf:NAME[:CONFIG][:SPLIT]."""
    reviser: Annotated[ReviserLike, Option()]
    """A folder that train-reviser wrote."""
    limit: Limit = None
    """Use at most so many responses, from the start."""
    generation: GenerationConfig = GenerationConfig()
    loading: LoadConfig = LoadConfig()
    run: FolderConfig = FolderConfig()


@config
class EvolveConfig:
    """Evolve a policy: it answers prompts, a reviser selects and rewrites answers, the policy learns; round by round.

    Needs prompts only. Every answer stays on disk with the reason why it was learned from or not. Resumable: rerun the
    same command. Several GPUs: `torchrun ... -m remodeler align evolve`.

    Example: `remodel align evolve policy --prompts prompts.txt --reviser reviser --out evolved`
    """

    source: ModelConfig
    evolution: EvolutionConfig
    reviser: Annotated[ReviserLike, Option()]
    """A folder that train-reviser wrote."""
    sampling: SamplingConfig = SamplingConfig(completions=4)
    filters: FilterConfig = FilterConfig()
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()


@config
class AlignConfig:
    """Align a model by reviser-guided self-training: a reviser from preferences, then a policy that it guides.

    Writes OUT/reviser and OUT/policy. Resumable: rerun the same command.

    Example: `remodel align run policy --preferences pairs.jsonl --prompts prompts.txt --out aligned`
    """

    source: ModelConfig
    data: PreferenceConfig
    evolution: EvolutionConfig
    reviser_model: Annotated[ModelLike, Option(DATA, default="the policy")] = None
    """Model that becomes the reviser: a folder or a hub id."""
    labels: LabelConfig = LabelConfig()
    warm_up: WarmUpConfig = WarmUpConfig()
    sampling: SamplingConfig = SamplingConfig(completions=4)
    filters: FilterConfig = FilterConfig()
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        refuse_non_model("reviser_model", self.reviser_model)

    def reviser_config(self) -> ReviserConfig:
        """The first step: to train the reviser."""
        source = self.source
        if self.reviser_model is not None:
            source = replace(source, model=self.reviser_model, revision=None)
        return ReviserConfig(
            source=source,
            data=self.data,
            labels=self.labels,
            warm_up=self.warm_up,
            training=self.training,
            run=RunConfig(out=self.run.folder() / REVISER, dry_run=self.run.dry_run),
        )

    def evolve_config(self) -> EvolveConfig:
        """The second step: to evolve the policy."""
        out = self.run.folder()
        return EvolveConfig(
            source=self.source,
            evolution=self.evolution,
            reviser=str(out / REVISER),
            sampling=self.sampling,
            filters=self.filters,
            training=self.training,
            run=RunConfig(out=out / POLICY, dry_run=self.run.dry_run),
        )
