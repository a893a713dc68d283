"""Options of recovery: what is trained, by what, and how fast."""

from pathlib import Path
from typing import Annotated

from remodeler.checkpoint.config import ModelConfig, ModelLike, refuse_non_model
from remodeler.data.config import TextConfig
from remodeler.runs.config import RunConfig
from remodeler.runs.options import Option, config
from remodeler.training.config import AdapterConfig, MemoryConfig, OptimizationConfig

METHODS = ("lora", "shortened-llama", "full", "distill")
METHOD, TEACHER = "Method", "Teacher"


@config
class TeacherConfig:
    """What the unpruned model is asked."""

    teacher: Annotated[ModelLike, Option(TEACHER)] = None
    """The unpruned model: what distill learns from; with every method, what the result is measured against."""
    top_k: Annotated[int | None, Option(TEACHER, low=1, default="64")] = None
    """Tokens kept of each of its predictions; all others count as one."""
    text_share: Annotated[float | None, Option(TEACHER, low=0, high=1, default="0.5")] = None
    """Weight of the text's own loss beside the teacher's."""
    temperature: Annotated[float | None, Option(TEACHER, above=0, default="1")] = None
    """Distillation temperature."""
    teacher_store: Annotated[Path | None, Option(TEACHER)] = None
    """Folder of the teacher's predictions, made on first use; without one, the teacher is asked on the fly."""

    def __post_init__(self) -> None:
        refuse_non_model("teacher", self.teacher)


@config
class RecoverConfig:
    """Recover quality after pruning, and write the model in the form it came in.

    LoRA adapters by default, with BlockPruner's settings; `--method full` trains all parameters, `distill` learns from
    the unpruned model. Resumable: rerun the same command. Several GPUs: `torchrun ... -m remodeler recover`.

    Example: `remodel recover small --teacher Qwen/Qwen3-0.6B --out better`
    """

    source: ModelConfig
    method: Annotated[str, Option(METHOD, METHODS)] = "lora"
    """lora, shortened-llama (LoRA with its settings), full (all parameters) or distill (from the unpruned model)."""
    adapters: AdapterConfig = AdapterConfig()
    merge: Annotated[bool, Option("Adapters")] = True
    """Merge adapters into the weights (or, negated, write them alone)."""
    teacher: TeacherConfig = TeacherConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    memory: MemoryConfig = MemoryConfig()
    evaluate_every: Annotated[int, Option("Optimization", low=0)] = 50
    """Steps between two evaluations on held-out text; 0: only at the start and the end."""
    texts: TextConfig = TextConfig(samples=8000)
    held_out: Annotated[str | None, Option("Texts", default="what training leaves of its own source")] = None
    """Held-out text to evaluate on, like texts."""
    run: RunConfig = RunConfig()

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
