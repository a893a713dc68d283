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
from remodeler.runs.defaults import stated
from remodeler.runs.options import Option, config, listed
from remodeler.runs.shares import share
from remodeler.training.config import (
    OPTIMIZATION,
    AdapterConfig,
    MemoryConfig,
    OptimizationConfig,
    Schedule,
    refuse_steps_and_epochs,
)

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
FULL_RATE, LORA_RATE = 2e-5, 2e-4
"""Learning rates of all parameters and of adapters."""
ReviserLike = Any
"""A folder that ``remodel align train-reviser`` wrote, its hub id, or a loaded
:class:`~remodeler.alignment.reviser.reviser.Reviser`."""
Seed = Annotated[int, Option(OPTIMIZATION, help="Random seed of data, answers and training.")]
Limit = Annotated[int | None, Option(DATA, low=1, default="all")]


# Parts ----------------------------------------------------------------------------------------------------------------


@config
class PreferenceSource:
    """Where preferences are."""

    preferences: Annotated[str, Option(DATA)]
    """Prompts with a better and a worse answer: a .jsonl, .json or .parquet FILE, or hf:NAME[:CONFIG][:SPLIT]."""


@config
class PreferenceConfig(PreferenceSource):
    """Preferences to learn from, and how many of them are held out."""

    held_out_share: Annotated[float, Option(DATA, above=0, below=1, read=share)] = 0.1
    """Share of the prompts that is held out for evaluation."""
    pairs: Annotated[int | None, Option(DATA, low=1, default="all")] = None
    """Maximum number of pairs per prompt, where the data lists several answers to a prompt."""
    score_gap: Annotated[float, Option(DATA, low=0)] = 0.0
    """Minimum difference between the scores of a pair, where the data lists several answers to a prompt."""
    length: Annotated[int | None, Option(DATA, low=1, default="2048, or the model's context")] = None
    """Maximum number of tokens per example; longer ones are left out, and counted."""


@config
class LabelConfig:
    """Labels of how much a response has to change: NONE, MINOR or MAJOR."""

    template: Annotated[Path | None, Option(LABELS)] = None
    """JSON file with the words to put around prompt and response, instead of the built-in ones."""
    difficulty: Annotated[str, Option(LABELS, MEASURES)] = "gain"
    """Measure of how much an answer has to change: gain (how much likelier the better answer is than a copy),
    perplexity (of the better answer), or edit (distance in words)."""
    major_share: Annotated[float, Option(LABELS, above=0, below=1, read=share)] = 0.5
    """Share of the triples, the hardest by `difficulty`, that is labelled MAJOR; the others are MINOR."""
    none_share: Annotated[float, Option(LABELS, low=0, below=1, read=share)] = 1 / 3
    """Share of all examples that is labelled NONE: better answers, which need no change."""
    gain_floor: Annotated[float | None, Option(LABELS, default="none")] = None
    """Label triples with a lower gain (nats per token) NONE too."""
    label_weight: Annotated[float, Option(LABELS, low=0)] = 1.0
    """Weight of the label's loss, relative to that of the whole text."""


@config
class WarmUpConfig:
    """The reviser that learns to rewrite before labels are known."""

    warm_up_epochs: Annotated[float, Option(WARM_UP, above=0)] = 1.0
    """Number of epochs of the first reviser, which only rewrites; it measures the difficulty."""
    copies: Annotated[float, Option(WARM_UP, low=0, high=1, read=share)] = 0.0
    """Examples of copying a good answer that are added to the warm-up, relative to the number of triples."""
    afresh: Annotated[bool, Option(WARM_UP)] = False
    """Train the final reviser from the model itself, instead of from the warm-up reviser."""


@config
@stated(learning_rate=f"{FULL_RATE:g}, of adapters {LORA_RATE:g}")
class PaceConfig(OptimizationConfig):
    """Length and speed of a phase of training."""


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
    """Prompts to learn from, without answers: .txt (one per line), .jsonl, .json, .csv, .parquet, or
    hf:NAME[:CONFIG][:SPLIT]."""
    limit: Limit = None
    """Use only the first N prompts."""
    probe: Annotated[int, Option(DATA, low=0)] = 64
    """Number of prompts set aside to measure the policy before and after each round; at most a tenth of all."""
    rounds: Annotated[tuple[str, ...], Option(ROUNDS, read=listed)] = ROUND_KINDS
    """Rounds of training, separated by commas: internal (on the policy's own best answers) or external (on the
    reviser's revisions)."""
    restart: Annotated[bool, Option(ROUNDS)] = False
    """Start every round from the first policy, instead of from the result of the round before."""
    use_labels: Annotated[bool, Option(ROUNDS)] = True
    """Choose answers by the reviser's labels; `use_labels=False` revises every first answer, as a control."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounds", tuple(self.rounds))
        if not self.rounds or not set(self.rounds) <= set(ROUND_KINDS):
            given = ",".join(self.rounds)
            raise InputError(f"{option('rounds', given)} is unknown: name {' and '.join(ROUND_KINDS)}, by commas")


@config
class FilterConfig:
    """Conditions that an answer must meet before a policy learns from it."""

    min_quality: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.5
    """Minimum quality, from 0 to 1 (by the reviser), of an answer that is learned without a revision."""
    min_confidence: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.4
    """Minimum probability that the reviser gives to its label."""
    major_confidence: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.5
    """Minimum probability of the label MAJOR."""
    quality_slack: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.0
    """A revision may be worse than the answer by at most this much quality."""
    shortest: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.3
    """Minimum length of a revision, relative to the answer: 0.3 = 30%."""
    longest: Annotated[float, Option(FILTERS, low=1)] = 3.0
    """Maximum length of a revision, relative to the answer: 3 = three times as long."""
    max_repetition: Annotated[float, Option(FILTERS, low=0, high=1)] = 0.3
    """Maximum share of repeated 4-grams (runs of four words) in a text."""


# Verbs ----------------------------------------------------------------------------------------------------------------


@config
class ReviserConfig:
    """Train a reviser: it labels how much of a response has to change (NONE, MINOR, MAJOR) and rewrites it.

    It learns from triples of a prompt, a better and a worse answer. Resumable: rerun the same command. Several GPUs:
    `torchrun --nproc-per-node 4 -m remodeler align train-reviser` with the same options.

    Example: `remodel align train-reviser Qwen/Qwen3-0.6B --preferences pairs.jsonl --out reviser`
    """

    source: ModelConfig
    data: PreferenceConfig
    limit: Limit = None
    """Use only the first N triples (a prompt, a better and a worse answer)."""
    labels: LabelConfig = LabelConfig()
    warm_up: WarmUpConfig = WarmUpConfig()
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        refuse_steps_and_epochs(self.training.optimization, EPOCHS)


@config
class ReviseConfig:
    """Label and revise responses from any source; the report shows what changed, word by word.

    Example: `remodel align revise --responses answers.jsonl --reviser reviser --out revised`
    """

    responses: Annotated[str, Option(DATA)]
    """Prompts with responses: .jsonl, .json, .csv, .parquet, or hf:NAME[:CONFIG][:SPLIT]."""
    reviser: Annotated[ReviserLike, Option("Reviser")]
    """A reviser: a folder that `remodel align train-reviser` wrote."""
    limit: Limit = None
    """Use only the first N responses."""
    generation: GenerationConfig = GenerationConfig()
    loading: LoadConfig = LoadConfig()
    run: FolderConfig = FolderConfig()


@config
class EvolveConfig:
    """Train a policy on its own answers, in rounds: it answers prompts, a reviser selects and rewrites, it learns.

    Every answer is logged, with the reason why it was used or not. Resumable: rerun the same command. Several GPUs:
    `torchrun --nproc-per-node 4 -m remodeler align evolve` with the same options.

    Example: `remodel align evolve policy --prompts prompts.txt --reviser reviser --out evolved`
    """

    source: ModelConfig
    evolution: EvolutionConfig
    reviser: Annotated[ReviserLike, Option("Reviser")]
    """A reviser: a folder that `remodel align train-reviser` wrote."""
    sampling: SamplingConfig = SamplingConfig(completions=4)
    filters: FilterConfig = FilterConfig()
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        refuse_steps_and_epochs(self.training.optimization, EPOCHS)


@config
class AlignConfig:
    """Do all of it: train a reviser on preferences, then a policy on its own answers, which the reviser selects.

    This is `train-reviser` and then `evolve`; writes OUT/reviser and OUT/policy. Resumable: rerun the same command.

    Example: `remodel align run policy --preferences pairs.jsonl --prompts prompts.txt --out aligned`
    """

    source: ModelConfig
    data: PreferenceConfig
    evolution: EvolutionConfig
    reviser_model: Annotated[ModelLike, Option(DATA, default="MODEL")] = None
    """Model that becomes the reviser, if it is another one: a folder, or an id on the Hugging Face Hub."""
    labels: LabelConfig = LabelConfig()
    warm_up: WarmUpConfig = WarmUpConfig()
    sampling: SamplingConfig = SamplingConfig(completions=4)
    filters: FilterConfig = FilterConfig()
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        refuse_non_model("reviser_model", self.reviser_model)
        refuse_steps_and_epochs(self.training.optimization, EPOCHS)

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
