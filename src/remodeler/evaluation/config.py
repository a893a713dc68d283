"""Options of an evaluation: which models, on which texts and tasks."""

from pathlib import Path
from typing import Annotated, Any

from remodeler.checkpoint.config import ModelConfig, refuse_non_model
from remodeler.data.config import Packing
from remodeler.runs.options import Option, config, listed

TEXTS, TASKS = "Texts", "Tasks"


@config
class EvaluateConfig:
    """Measure models: perplexity, bits per byte, multiple-choice tasks, speed, memory.

    Example: `remodel evaluate small --against Qwen/Qwen3-0.6B --texts wikitext2 --tasks piqa,questions.jsonl`
    """

    source: ModelConfig
    against: tuple[Any, ...] = ()
    """Another model, measured side by side; may be repeated."""
    out: Path | None = None
    """New folder for record.json and report.html."""
    texts: Annotated[str | None, Option(TEXTS)] = "wikitext2"
    """Texts for perplexity: wikitext2, python, ..., or a FILE as a whole."""
    length: Annotated[int | None, Option(TEXTS, low=1, default="2048, or the shortest context")] = None
    """Tokens per window."""
    packing: Annotated[Packing, Option(TEXTS)] = "paper"
    """paper: texts are joined and cut into equal windows; per-text: one window per text."""
    tasks: Annotated[tuple[str, ...], Option(TASKS, read=listed)] = ()
    """lm-eval tasks by name and local question FILEs, separated by commas."""
    limit: Annotated[int | None, Option(TASKS, low=1, default="all")] = None
    """Questions per task."""
    speed: bool = True
    """Measure prefill and decoding speed."""

    def __post_init__(self) -> None:
        refuse_non_model("against", *self.against)
