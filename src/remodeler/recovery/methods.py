"""How quality is recovered after pruning: a method is a row of METHODS, and every setting of it can be given.

``lora`` has the settings of BlockPruner's appendix (arXiv 2406.10594: r 32, alpha 10, learning rate 2e-4, batch 1 x
accumulation 4, linear schedule, 8,000 samples of Alpaca, all linear layers but embeddings and head), and
``shortened-llama`` those of Shortened LLaMA (arXiv 2402.02834: r 8, alpha 16, dropout 0.05, learning rate 1e-4, 2
epochs, batch 64, cut-off 256). BlockPruner names no length; SliceGPT (arXiv 2401.15024), with the same r, alpha and
samples, reads 1,024 tokens. Deviation: an example is no row of its own, cut off where it is too long; texts are joined
and cut into windows as everywhere here (``--packing per-text`` gives each its own), and every token counts.

``full`` and ``distill`` are ours: all parameters, by the text alone or by the unpruned model's predictions too.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from remodeler.checkpoint.gguf import is_gguf
from remodeler.errors import InputError, option
from remodeler.recovery.config import RecoverConfig
from remodeler.training.adapters import Lora
from remodeler.training.plan import Training, refuse_pace


@dataclass(frozen=True)
class Distillation:
    """What a teacher gives."""

    k: int = 64
    """Tokens of each of its predictions; all others count as one."""
    share: float = 0.5
    """Of the text's own loss. Half brought back more than either alone on one model, and nearly the most on another."""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"{option('top_k')} must be >= 1 (got {self.k})")


@dataclass(frozen=True)
class Recipe:
    """What is trained, by what, and how fast."""

    summary: str
    lora: Lora | None = None
    """Adapters; None for all parameters."""
    distill: Distillation | None = None
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


OPTIONS = {"k": "top_k", "share": "text_share", "batch": "train_batch_size"}
"""Options of settings that have another name."""
METHODS = {
    "lora": Recipe("adapters on every linear layer, as in BlockPruner", Lora(32, 10.0), learning_rate=2e-4),
    "shortened-llama": Recipe(
        "smaller adapters, larger steps, as in Shortened LLaMA", Lora(8, 16.0, 0.05), batch=64, epochs=2.0, length=256
    ),
    "full": Recipe("all parameters, by the text alone", warmup=0.03),
    "distill": Recipe(
        "all parameters, by the text and what the unpruned model predicts", distill=Distillation(), warmup=0.03
    ),
}


def recipe_of(config: RecoverConfig) -> Recipe:
    """The method's row with what was given.

    Raises:
        InputError: for a setting that the method has no use for, and what contradicts it.
    """
    row, adapters, teacher = METHODS[config.method], config.adapters.adapters, config.teacher
    if adapters is not None:
        row = replace(row, lora=(row.lora or METHODS["lora"].lora) if adapters else None)
    if row.distill and not teacher.teacher:
        raise InputError(
            f"{option('method', config.method)} learns from the unpruned model: name it with {option('teacher')}"
        )
    if row.lora is None and not config.merge:
        raise InputError(
            f"{option('merge', False)} was given, but no adapters are trained: add {option('adapters', True)} or leave "
            "it out"
        )
    if not config.merge and is_gguf(config.source.name):
        raise InputError(
            f"{option('merge', False)} was given, and peft loads no adapters onto a GGUF file: leave it out, or make a "
            "folder of the file first (merge it alone)"
        )
    row = _with(row, config.settings())
    if teacher.teacher_store and (row.distill is None or row.distill.temperature != 1):
        raise InputError(
            f"{option('teacher_store')} holds predictions at temperature 1, for {option('method', 'distill')}: "
            "leave it out"
        )
    return row


def _with(row: Recipe, settings: dict[str, Any]) -> Recipe:
    """A row with other settings, each where it belongs."""
    parts: dict[str, Any] = {"lora": row.lora, "distill": row.distill}
    for name, value in settings.items():
        if name in Recipe.__dataclass_fields__:
            row = replace(row, **{name: value})
            continue
        part = "lora" if name in Lora.__dataclass_fields__ else "distill"
        if parts[part] is None:
            what = "adapters" if part == "lora" else "a teacher's predictions"
            given = option(OPTIONS.get(name, name), value)
            raise InputError(f"{given} was given, but this method has no use for {what}: leave it out")
        parts[part] = replace(parts[part], **{name: value})
    return replace(row, **parts)


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Settings of a recipe, as a record holds them."""
    return {name: value for name, value in asdict(recipe).items() if name != "summary"}
