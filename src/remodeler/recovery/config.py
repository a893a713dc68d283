"""How a pruned model is trained back: a way is a row of RECOVERIES, and every setting of it can be given.

``lora`` has the settings of BlockPruner's appendix (arXiv 2406.10594: r 32, alpha 10, learning rate 2e-4, batch 1 x
accumulation 4, linear schedule, 8,000 samples of Alpaca, all linear layers but embeddings and head), and
``shortened-llama`` those of Shortened LLaMA (arXiv 2402.02834: r 8, alpha 16, dropout 0.05, learning rate 1e-4, 2
epochs, batch 64, cut-off 256). BlockPruner names no length; SliceGPT (arXiv 2401.15024), with the same r, alpha and
samples, reads 1,024 tokens. Deviation: an example is no row of its own, cut off where it is too long; texts are joined
and cut into windows as everywhere here (``--packing per-text`` gives each its own), and every token counts.

``full`` and ``distill`` are ours: all parameters, by the text alone or by the unpruned model's predictions too.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.training.adapters import Lora
from remodeler.training.plan import Training, refuse_pace


@dataclass(frozen=True)
class Lesson:
    """What a teacher gives."""

    k: int = 64
    """Tokens of each of its predictions; all others count as one."""
    share: float = 0.5
    """Of the text's own loss. Half brought back more than either alone on one model, and nearly the most on another."""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"--top-k {self.k} was given, at least 1 is needed: raise it")


@dataclass(frozen=True)
class Recipe:
    """What is trained, by what, and how fast."""

    summary: str
    lora: Lora | None = None
    """Adapters; None for all parameters."""
    lesson: Lesson | None = None
    """None for the text's own loss."""
    learning_rate: float = 1e-4
    schedule: str = "linear"
    warmup: float = 0.0
    """Share of the steps in which the learning rate grows."""
    weight_decay: float = 0.0
    batch: int = 4
    epochs: float = 1.0
    length: int = 1024

    def training(self, windows: int, steps: int | None, **given: Any) -> Training:
        """The run over so many windows: ``steps``, or the recipe's epochs."""
        refuse_pace(self.epochs, self.batch, self.warmup)
        count = max(1, math.ceil(self.epochs * windows / self.batch)) if steps is None else steps
        same = {key: getattr(self, key) for key in ("learning_rate", "schedule", "weight_decay", "batch")}
        return Training(count, warmup=round(self.warmup * count), **same, **given)


RECOVERIES = {
    "lora": Recipe("adapters on every linear layer, as in BlockPruner", Lora(32, 10.0), learning_rate=2e-4),
    "shortened-llama": Recipe(
        "smaller adapters, larger steps, as in Shortened LLaMA", Lora(8, 16.0, 0.05), batch=64, epochs=2.0, length=256
    ),
    "full": Recipe("all parameters, by the text alone", warmup=0.03),
    "distill": Recipe("all parameters, by the text and what the unpruned model predicts", lesson=Lesson(), warmup=0.03),
}


@dataclass(frozen=True)
class Wish:
    """What a person asks for; None leaves a setting to the recipe."""

    method: str = "lora"
    teacher: str | None = None
    """The unpruned model: what ``distill`` learns from, and what any result is measured against."""
    steps: int | None = None
    merge: bool = True
    """Adapters go into the weights; otherwise they are written alone."""
    adapters: bool | None = None
    """Train adapters, or all parameters, against the recipe."""
    heldout: str | None = None
    """Text to judge by; by default what training leaves of its own source."""
    store: Path | None = None
    """Folder of the teacher's predictions, made where it is not there; by default the teacher is asked on the fly."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the recipe, its adapters and its lesson, by name."""
    run: dict[str, Any] = field(default_factory=dict)
    """Of the training run: ``micro``, ``precision``, ``checkpointing``, ``evaluate_every``, ``save_minutes``."""

    def recipe(self) -> Recipe:
        """The method's row with what was given.

        Raises:
            InputError: for an unknown method, or a setting that it has no use for.
        """
        if self.method not in RECOVERIES:
            raise InputError(f"method {self.method!r} is not known: choose {', '.join(RECOVERIES)}")
        row = RECOVERIES[self.method]
        if self.adapters is not None:
            row = replace(row, lora=(row.lora or RECOVERIES["lora"].lora) if self.adapters else None)
        if row.lesson and not self.teacher:
            raise InputError(f"--method {self.method} learns from the unpruned model: name it with --teacher")
        if row.lora is None and not self.merge:
            raise InputError("--no-merge was given, but no adapters are trained: add --adapters or leave it out")
        row = _with(row, {name: value for name, value in self.settings.items() if value is not None})
        if self.store and (row.lesson is None or row.lesson.temperature != 1):
            raise InputError("--teacher-store holds predictions at temperature 1, for --method distill: leave it out")
        return row


def _with(row: Recipe, given: dict[str, Any]) -> Recipe:
    """A row with other settings, each where it belongs."""
    parts: dict[str, Any] = {"lora": row.lora, "lesson": row.lesson}
    for name, value in given.items():
        if name in Recipe.__dataclass_fields__:
            row = replace(row, **{name: value})
            continue
        part = "lora" if name in Lora.__dataclass_fields__ else "lesson"
        if parts[part] is None:
            what = "adapters" if part == "lora" else "a teacher's predictions"
            raise InputError(f"{name} {value} was given, but this method has no use for {what}: leave it out")
        parts[part] = replace(parts[part], **{name: value})
    return replace(row, **parts)


def told(recipe: Recipe) -> dict[str, Any]:
    """A recipe's settings for a record."""
    return {name: value for name, value in asdict(recipe).items() if name != "summary"}
