"""What a person asks of an alignment."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from remodeler.checkpoint.load import Checkpoint, load, read_settings
from remodeler.errors import InputError
from remodeler.generation.sampling import Sampling, refuse_size
from remodeler.model.families import FAMILIES
from remodeler.runs.runlog import RunLog
from remodeler.training.adapters import Lora
from remodeler.training.model import training_dtype, training_precision
from remodeler.training.plan import Training, refuse_pace

RUN = "run.jsonl"
"""Says what an unfinished folder belongs to."""
FULL_RATE, LORA_RATE = 2e-5, 2e-4
DEFAULTS: dict[str, Any] = {"batch": 32, "schedule": "cosine", "warmup": 0.03, "weight_decay": 0.0}
"""Of training."""
MEASURES = ("gain", "perplexity", "edit")
"""Of how much a response has to change: see :mod:`remodeler.alignment.reviser.difficulty`."""
INTERNAL, EXTERNAL = "internal", "external"
KINDS = (INTERNAL, EXTERNAL)
"""Of rounds of evolution."""


@dataclass(frozen=True)
class Loading:
    """How models are loaded."""

    family: str | None = None
    trust_remote_code: bool = False
    dtype: str = "auto"
    device: str = "auto"

    def load(self, name: str, device: Any, trained: bool = False) -> Checkpoint:
        """A model; ``trained``: all of it is going to change, so that it needs float32."""
        return load(name, **self.how(name, device, trained))

    def how(self, name: str, device: Any, trained: bool = False) -> dict[str, Any]:
        """The arguments of that; the family that was named is that of models which are in no row."""
        known = read_settings(name, None)["model_type"] in FAMILIES
        return {
            "dtype": training_dtype(self.dtype, trained, device),
            "device": str(device),
            "family": None if known else self.family,
            "trust_remote_code": self.trust_remote_code,
        }


# Parts ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """How a phase trains."""

    epochs: float = 2.0
    lora: Lora | None = None
    """None trains everything."""
    seed: int = 42
    run: Mapping[str, Any] = field(default_factory=dict)
    """``learning_rate``, ``batch``, ``schedule``, ``warmup``, ``micro``, ``precision``, ``checkpointing``, ..."""

    def plan(self, rows: int, device: Any) -> Training:
        """Its steps over so many rows."""
        rate = FULL_RATE if self.lora is None else LORA_RATE
        given = {name: value for name, value in self.run.items() if value is not None and name != "precision"}
        settings = DEFAULTS | {"learning_rate": rate} | given
        refuse_pace(self.epochs, settings["batch"], settings["warmup"])
        settings["batch"] = min(settings["batch"], rows)
        steps = max(1, round(self.epochs * rows / settings["batch"]))
        warmup = round(settings.pop("warmup") * steps)
        precision: Any = training_precision(self.run.get("precision"), device)
        return Training(steps, warmup=warmup, precision=precision, seed=self.seed, **settings)


@dataclass(frozen=True)
class Rule:
    """How labels are made."""

    measure: str = "gain"
    major: float = 0.5
    """Share of the triples that are MAJOR."""
    none: float = 1 / 3
    """Share of all examples that are NONE."""
    floor: float | None = None
    """A gain below which a triple is NONE too."""

    def checked(self) -> "Rule":
        """Itself.

        Raises:
            InputError: for an unknown measure, or a share outside 0 to 1.
        """
        if self.measure not in MEASURES:
            raise InputError(f"--difficulty {self.measure!r} is not known: choose {', '.join(MEASURES)}")
        if not 0 < self.major < 1 or not 0 <= self.none < 1:
            raise InputError(f"shares of {self.major:g} (major) and {self.none:g} (none) were given: between 0 and 1")
        return self


@dataclass(frozen=True)
class Limits:
    """How strict the filters are."""

    shortest: float = 0.3
    longest: float = 3.0
    """Characters of a revision, as a share of those of the answer."""
    repetition: float = 0.3
    """Share of 4-grams of words that came before."""
    confidence: float = 0.4
    """Of the label."""
    major: float = 0.5
    """Of the label MAJOR."""
    quality: float = 0.5
    """Of an answer that is kept as it is."""
    slack: float = 0.0
    """By so much a revision's quality may be below that of what it revises."""

    def checked(self) -> "Limits":
        """Itself.

        Raises:
            InputError: for a number that nothing or everything would pass.
        """
        shares = (self.repetition, self.confidence, self.major, self.quality, self.slack)
        if not all(0 <= each <= 1 for each in shares) or not 0 <= self.shortest <= 1 <= self.longest:
            raise InputError("a limit of the filters is out of range: shares lie between 0 and 1, the lengths around 1")
        return self


# Verbs ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReviserWish:
    """A reviser to be trained."""

    model: str
    preferences: str
    template: Path | None = None
    samples: int | None = None
    heldout: float = 0.1
    """Share of the prompts."""
    lower: int | None = None
    gap: float = 0.0
    length: int | None = None
    rule: Rule = field(default_factory=Rule)
    label_weight: float = 1.0
    afresh: bool = False
    """The adaptive reviser starts from the model, not from the warm-up reviser."""
    warmup_epochs: float = 1.0
    identity: float = 0.0
    """So many examples of copying in the warm-up, as a share of the triples."""
    course: Course = field(default_factory=Course)
    loading: Loading = field(default_factory=Loading)
    seed: int = 42

    def __post_init__(self) -> None:
        refuse_length(self.length)
        if not self.label_weight >= 0 or not self.warmup_epochs > 0 or not 0 <= self.identity <= 1:
            raise InputError(
                f"a label weight of {self.label_weight:g}, {self.warmup_epochs:g} warm-up epochs and {self.identity:g} "
                "copies were given: the first is at least 0, the second above 0, the third a share from 0 to 1"
            )


def refuse_length(length: int | None) -> None:
    """Raise for examples of no token."""
    if length is not None and length < 1:
        raise InputError(f"--length {length} was given, at least 1 was expected: raise it")


def same_run(work: Path, wish: Any, *free: str) -> None:
    """Refuse to go on with what another wish left in a folder; some of its parts are free to change.

    Raises:
        InputError: and says what differs.
    """
    told = {key: value for key, value in options(wish).items() if key not in (*free, "loading", "size")}
    RunLog(work / RUN).resume({"model": wish.model, **told})


def options(wish: Any, out: Path | None = None) -> dict[str, Any]:
    """A wish as it stands in a record, with the place of the result where it has one."""
    told = {key: _plain(value) for key, value in asdict(wish).items() if key != "model"}
    return told | ({"out": str(out)} if out else {})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class ReviseWish:
    """Responses to be revised."""

    responses: str
    reviser: str
    tokens: int = 256
    size: int | None = None
    limit: int | None = None
    loading: Loading = field(default_factory=Loading)


@dataclass(frozen=True)
class EvolveWish:
    """A policy to be evolved."""

    model: str
    prompts: str
    reviser: str
    rounds: tuple[str, ...] = (INTERNAL, EXTERNAL)
    limit: int | None = None
    """Prompts, of all rounds together."""
    probe: int = 64
    """Prompts set aside to look at the policy before and after, at most a tenth."""
    sampling: Sampling = field(default_factory=lambda: Sampling(256, 1.0, 0.95, 4))
    limits: Limits = field(default_factory=Limits)
    labels: bool = True
    restart: bool = False
    """Every round trains the first policy anew, not that of the round before."""
    size: int | None = None
    course: Course = field(default_factory=Course)
    loading: Loading = field(default_factory=Loading)
    seed: int = 42

    def checked(self) -> "EvolveWish":
        """Itself.

        Raises:
            InputError: for an unknown kind of round, or none.
        """
        if not self.rounds or not set(self.rounds) <= set(KINDS):
            raise InputError(f"--rounds {','.join(self.rounds)} was given: name {' and '.join(KINDS)}, by commas")
        if self.probe < 0:
            raise InputError(f"--probe {self.probe} was given, at least 0 was expected: raise it")
        refuse_size(self.size)
        self.sampling.checked()
        self.limits.checked()
        return self


@dataclass(frozen=True)
class BaselineWish:
    """A policy trained on preferences by another method, to be held against an evolved one."""

    model: str
    preferences: str
    method: str = "sft"
    samples: int | None = None
    heldout: float = 0.1
    lower: int | None = None
    gap: float = 0.0
    length: int | None = None
    chat: bool = False
    beta: float = 0.1
    """Of DPO and ORPO."""
    course: Course = field(default_factory=Course)
    loading: Loading = field(default_factory=Loading)
    seed: int = 42

    def __post_init__(self) -> None:
        refuse_length(self.length)
        if not self.beta > 0:
            raise InputError(f"--beta {self.beta:g} was given, a number above 0 was expected: raise it")
