"""Options of fusion: student and teachers, how their tokens are matched, what the target is, how the student learns.

The presets ``fusellm`` and ``fusechat`` set what the papers' released code chose, for comparison: alignment by dynamic
programming, edit distances or mapping statistics, losses per token, renormalised top-k, certain targets where nothing
aligns. Their faults, the target that is one token late and the empty name that matches everything, are not repeated.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from remodeler.checkpoint.config import LoadConfig, ModelLike, refuse_non_model
from remodeler.errors import InputError, option
from remodeler.runs.config import RunConfig
from remodeler.runs.options import Option, as_recorded, config
from remodeler.training.config import (
    AdapterConfig,
    MemoryConfig,
    OptimizationConfig,
    ShardConfig,
    refuse_steps_and_epochs,
)

TEACHERS, MATCHING, TARGET, TEXTS, OPTIMIZATION = "Teachers", "Token matching", "Target", "Texts", "Optimization"
HYBRID = "hybrid"
"""Token by token where both vocabularies have it, else by rank: GOLD's loss."""
DIVERGENCES = ("forward", "reverse", "uld", HYBRID)
PACE: Mapping[str, Any] = {
    "epochs": 1.0,
    "learning_rate": 1e-5,
    "train_batch_size": 4,
    "schedule": "cosine",
    "warmup": 0.03,
}
LORA: Mapping[str, Any] = {"rank": 32, "alpha": 32.0, "dropout": 0.0}


@config
class MatchConfig:
    """How a teacher's positions and tokens become the student's."""

    align: Annotated[Literal["bytes", "dp"], Option(MATCHING)] = "bytes"
    """Match positions of two tokenizers by bytes (exact), or by dp (dynamic programming, as in the papers)."""
    map: Annotated[Literal["pieces", "exact", "edit", "statistics"], Option(MATCHING)] = "pieces"
    """Map a teacher's token to the same one of the student; if there is none: exact drops it, pieces takes its first
    piece, edit the nearest spelling (FuseLLM), statistics the commonest partner (FuseChat)."""
    inside: Annotated[bool, Option(MATCHING)] = True
    """Where the student's tokens are shorter, learn from the teacher inside its tokens too."""
    parity: Annotated[Literal["fusellm", "fusechat"] | None, Option(MATCHING)] = None
    """Preset for comparisons: match and fuse as the released code of fusellm or fusechat does."""


@config
class TargetConfig:
    """How the predictions of several teachers become one target."""

    fusion: Annotated[Literal["mince", "avgce"], Option(TARGET)] = "mince"
    """How several teachers become one target: mince (the best teacher) or avgce (their weighted mean)."""
    level: Annotated[Literal["sequence", "token"], Option(TARGET)] = "sequence"
    """Choose or weigh teachers for each text (sequence) or for each token."""
    rank_by: Annotated[Literal["byte", "token"], Option(TARGET)] = "byte"
    """The best teacher has the lowest loss per byte, or per token (as in the papers)."""
    unaligned: Annotated[Literal["skip", "next", "onehot"], Option(TARGET)] = "skip"
    """Where the best teacher has no prediction: skip (learn nothing), next (the next best teacher), or onehot (the
    text's own token, as in the papers)."""
    collide: Annotated[Literal["sum", "first"], Option(TARGET)] = "sum"
    """Where several teacher tokens map to one: sum their probabilities, or keep the first (as in the papers)."""
    rest: Annotated[bool, Option(TARGET)] = True
    """Keep the probability of all tokens outside `top_k` as one; the papers' code drops it and renormalises."""


AS_RELEASED = TargetConfig(rank_by="token", unaligned="onehot", collide="first", rest=False)
PARITIES: Mapping[str, Mapping[str, Any]] = {
    "fusellm": {"align": "dp", "map": "edit"},
    "fusechat": {"align": "dp", "map": "statistics"},
}


@config
class FuseConfig:
    """Distil one or more teachers, with any tokenizers and sizes, into one student.

    All teachers at once is FuseLLM. For FuseChat, fuse the student with each teacher, then merge the results by
    `remodel merge --method sce`. Resumable: rerun the same command. Several GPUs: `torchrun --nproc-per-node 4 -m
    remodeler fuse` with the same options.

    Example: `remodel fuse small --teachers large --teachers other --texts chats.jsonl --out fused`
    """

    student: Annotated[ModelLike, Option(positional=True)]
    """The model that is trained: a folder, or an id on the Hugging Face Hub."""
    teachers: Annotated[tuple[ModelLike, ...], Option(TEACHERS)]
    """A model to learn from; repeat it for several: `teachers` A `teachers` B."""
    itself: Annotated[bool, Option(TEACHERS)] = True
    """Count the untrained student as one more teacher, as both papers do."""
    teacher_store: Annotated[Path | None, Option(TEACHERS)] = None
    """Folder for the teachers' predictions, filled by the first run and read by later ones."""
    matching: MatchConfig = MatchConfig()
    target: TargetConfig = TargetConfig()
    top_k: Annotated[int, Option(TARGET, low=1)] = 10
    """Number of most likely tokens kept of each prediction."""
    text_share: Annotated[float, Option(TARGET, low=0, high=1)] = 0.9
    """Weight of the next-token loss, from 0 to 1 (the papers' lambda); the teachers' loss has the rest."""
    divergence: Annotated[str, Option(TARGET, DIVERGENCES)] = "forward"
    """Loss: forward or reverse KL divergence, uld (compares sorted probabilities, needs no map), or hybrid (GOLD: uld
    only for tokens that the student lacks)."""
    temperature: Annotated[float, Option(TARGET, above=0)] = 1.0
    """Distillation temperature, which divides the logits of teachers and student."""
    adapters: AdapterConfig = AdapterConfig(adapters=False, **LORA)
    optimization: OptimizationConfig = OptimizationConfig(**PACE)
    memory: MemoryConfig = MemoryConfig()
    sharding: ShardConfig = ShardConfig()
    evaluate_every: Annotated[int, Option(OPTIMIZATION, low=0)] = 50
    """Evaluate on held-out text every N steps; 0: only at the start and the end."""
    order_seed: Annotated[int | None, Option(python_only=True)] = None
    """Random seed of the order of the windows, where it is not that of the texts."""
    texts: Annotated[str, Option(TEXTS)] = "alpaca"
    """alpaca, wikitext2, c4, python (offline), hf:NAME[:CONFIG][:SPLIT], or a FILE of texts or conversations (ShareGPT
    or messages)."""
    held_out: Annotated[str | None, Option(TEXTS, default="a part of the texts")] = None
    """Text to evaluate on; written like `texts`."""
    samples: Annotated[int, Option(TEXTS, low=1)] = 8000
    """Number of texts or conversations to train on."""
    length: Annotated[int | None, Option(TEXTS, low=1, default="1024, or the student's context")] = None
    """Maximum number of tokens per window."""
    seed: Annotated[int, Option(TEXTS)] = 42
    """Random seed of the texts and of training."""
    loading: LoadConfig = LoadConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        if self.student is None:
            raise InputError(f"{option('student')} must be given: a folder, a hub id or a loaded checkpoint")
        refuse_non_model("student", self.student)
        refuse_non_model("teachers", *self.teachers)
        refuse_steps_and_epochs(self.optimization, PACE["epochs"])

    @property
    def pace(self) -> dict[str, Any]:
        """How long and how fast the student learns."""
        given = {name: getattr(self.optimization, name) for name in PACE}
        return {**PACE, **{name: value for name, value in given.items() if value is not None}}

    @property
    def lora(self) -> dict[str, Any] | None:
        """Settings of the adapters; None where all parameters are trained."""
        if not self.adapters.adapters:
            return None
        given = {name: getattr(self.adapters, name) for name in LORA}
        return {**LORA, **{name: value for name, value in given.items() if value is not None}}


def resolve(config: FuseConfig) -> FuseConfig:
    """A config with the preset of a paper, if one is asked for, and what the hybrid loss needs.

    Raises:
        InputError: for options that contradict each other.
    """
    if not config.teachers:
        raise InputError(f"no teacher was given: name at least one with {option('teachers')}")
    names = [str(as_recorded(each)) for each in config.teachers]
    for name in names:
        if _is_same(name, str(as_recorded(config.student))) or names.count(name) > 1:
            raise InputError(f"{name} is given twice, as a teacher and as something else: leave one out")
    if config.matching.parity is not None:
        matching = replace(config.matching, **PARITIES[config.matching.parity])
        config = replace(config, matching=matching, target=AS_RELEASED)
    return _resolve_hybrid(config) if config.divergence == HYBRID else config


def _is_same(one: str, two: str) -> bool:
    paths = Path(one), Path(two)
    return one == two or (all(each.exists() for each in paths) and paths[0].resolve() == paths[1].resolve())


def _resolve_hybrid(config: FuseConfig) -> FuseConfig:
    """As the hybrid loss needs it: groups by bytes, tokens that are the same and no others."""
    align, fusion, unaligned = config.matching.align, config.target.fusion, config.target.unaligned
    hybrid = option("divergence", HYBRID)
    if align != "bytes" or fusion != "mince" or unaligned == "onehot":
        given = f"{option('align', align)}, {option('fusion', fusion)} and {option('unaligned', unaligned)}"
        raise InputError(f"{hybrid} was asked for with {given}: it takes bytes, mince, and skip or next")
    if config.matching.map not in ("pieces", "exact"):
        raise InputError(f"{hybrid} was asked for with {option('map', config.matching.map)}: it takes exact alone")
    return replace(config, matching=replace(config.matching, map="exact", inside=False))
