"""Options of recovery: what is trained, by what, and how fast."""

from pathlib import Path
from typing import Annotated

from remodeler.checkpoint.config import DeviceMapConfig, ModelConfig, ModelLike, refuse_non_model
from remodeler.data.config import TEXTS, TextConfig
from remodeler.recovery.recipes import METHODS as RECIPES
from remodeler.recovery.recipes import Distillation
from remodeler.runs.config import RunConfig
from remodeler.runs.defaults import by_name, stated
from remodeler.runs.options import Option, config
from remodeler.training.config import (
    AdapterConfig,
    MemoryConfig,
    OptimizationConfig,
    ShardConfig,
    refuse_steps_and_epochs,
)

METHODS = tuple(RECIPES)
METHOD, TEACHER = "Method", "Teacher"
DISTILLATION = Distillation()


def _rows(setting: str) -> str:
    """A setting of the methods, in words."""
    return by_name({name: getattr(row, setting) for name, row in RECIPES.items()})


def _adapters(setting: str) -> str:
    """A setting of the adapters, those of ``lora`` where a method trains none by itself."""
    usual = RECIPES["lora"].lora
    return by_name({name: getattr(row.lora or usual, setting) for name, row in RECIPES.items()})


@config
@stated(
    epochs=_rows("epochs"),
    learning_rate=_rows("learning_rate"),
    train_batch_size=_rows("batch"),
    schedule=_rows("schedule"),
    warmup=_rows("warmup"),
)
class PaceConfig(OptimizationConfig):
    """How long and how fast the model learns, where that is not as the method has it."""


@config
@stated(
    adapters=f"yes for {' and '.join(name for name, row in RECIPES.items() if row.lora)}, else no",
    rank=_adapters("rank"),
    alpha=_adapters("alpha"),
    dropout=_adapters("dropout"),
)
class LoraConfig(AdapterConfig):
    """Adapters, where they are not as the method has them."""


@config
@stated(length=f"{_rows('length')}, at most the model's context")
class TrainingTexts(TextConfig):
    """Texts to train on, and those held out from them."""

    samples: Annotated[int, Option(TEXTS, low=1)] = 8000
    """Number of texts to train on; at most 256 others are held out for evaluation."""


@config
class TeacherConfig:
    """What the unpruned model is asked."""

    teacher: Annotated[ModelLike, Option(TEACHER)] = None
    """The unpruned model. distill learns from it; with the other methods the result is compared with it."""
    top_k: Annotated[int | None, Option(TEACHER, low=1, default=str(DISTILLATION.k))] = None
    """distill: number of most likely tokens kept of each prediction of the teacher; the rest counts as one token."""
    text_share: Annotated[float | None, Option(TEACHER, low=0, high=1, default=f"{DISTILLATION.share:g}")] = None
    """distill: weight of the next-token loss, from 0 to 1; the teacher's loss has the rest."""
    temperature: Annotated[float | None, Option(TEACHER, above=0, default=f"{DISTILLATION.temperature:g}")] = None
    """distill: distillation temperature, which divides the logits of teacher and student."""
    teacher_store: Annotated[Path | None, Option(TEACHER)] = None
    """distill: folder for the teacher's predictions, filled by the first run and read by later ones. Without it the
    teacher runs at every step."""

    def __post_init__(self) -> None:
        refuse_non_model("teacher", self.teacher)


@config
class RecoverConfig:
    """Recover quality after pruning, by fine-tuning or distillation; the model keeps its form.

    By default LoRA adapters are trained with BlockPruner's settings, and merged into the weights. Resumable: rerun the
    same command. Several GPUs: `torchrun --nproc-per-node 4 -m remodeler recover` with the same options.

    Example: `remodel recover small --teacher Qwen/Qwen3-0.6B --out better`
    """

    source: ModelConfig
    devices: DeviceMapConfig = DeviceMapConfig()
    method: Annotated[str, Option(METHOD, METHODS)] = "lora"
    """lora; shortened-llama (LoRA with the settings of that paper); full (all parameters); distill (all parameters, to
    predict as `teacher` does)."""
    teacher: TeacherConfig = TeacherConfig()
    optimization: PaceConfig = PaceConfig()
    adapters: LoraConfig = LoraConfig()
    merge: Annotated[bool, Option("Adapters")] = True
    """Merge the adapters into the weights; `merge=False` writes the adapters alone."""
    memory: MemoryConfig = MemoryConfig()
    sharding: ShardConfig = ShardConfig()
    evaluate_every: Annotated[int, Option("Optimization", low=0)] = 50
    """Evaluate on held-out text every N steps; 0: only at the start and the end."""
    texts: TrainingTexts = TrainingTexts()
    held_out: Annotated[str | None, Option("Texts", default="other texts of the same source")] = None
    """Text to evaluate on; written like `texts`."""
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        refuse_steps_and_epochs(self.optimization)
        self.devices.refuse_others(self.source.device)

    def settings(self) -> dict[str, object]:
        """What was asked of the method, by the names of its settings; what was not, it decides itself."""
        pace, teacher, adapters = self.optimization, self.teacher, self.adapters
        given = {
            "rank": adapters.rank,
            "alpha": adapters.alpha,
            "dropout": adapters.dropout,
            "k": teacher.top_k,
            "share": teacher.text_share,
            "temperature": teacher.temperature,
            "learning_rate": pace.learning_rate,
            "schedule": pace.schedule,
            "warmup": pace.warmup,
            "batch": pace.train_batch_size,
            "epochs": pace.epochs,
            "length": self.texts.length,
        }
        return {name: value for name, value in given.items() if value is not None}
