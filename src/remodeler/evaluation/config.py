"""Options of an evaluation: which models, on which texts and tasks."""

from pathlib import Path
from typing import Annotated, Any

from remodeler.checkpoint.config import DeviceMapConfig, ModelConfig, refuse_non_model
from remodeler.data.config import Packing
from remodeler.runs.config import OUTPUT
from remodeler.runs.options import Option, config, listed

TEXTS, TASKS = "Texts", "Tasks"


@config
class EvaluateConfig:
    """Measure one or more models: perplexity, bits per byte, multiple-choice tasks, speed, memory.

    Example: `remodel evaluate small --against Qwen/Qwen3-0.6B --texts wikitext2 --tasks piqa,questions.jsonl`
    """

    source: ModelConfig
    devices: DeviceMapConfig = DeviceMapConfig()
    against: Annotated[tuple[Any, ...], Option("Comparison")] = ()
    """Another model to measure side by side; repeat it for several: `against` A `against` B."""
    out: Annotated[Path | None, Option(OUTPUT, default="print the table only")] = None
    """New folder for record.json and report.html."""
    texts: Annotated[str | None, Option(TEXTS)] = "wikitext2"
    """Text to measure perplexity on: alpaca, wikitext2, c4, python (offline), hf:NAME[:CONFIG][:SPLIT], or a FILE,
    which is read as a whole."""
    length: Annotated[int | None, Option(TEXTS, low=1, default="2048, or the shortest context")] = None
    """Tokens per window."""
    packing: Annotated[Packing, Option(TEXTS)] = "paper"
    """paper: join all texts and cut them into equal windows; per-text: one padded window per text."""
    tasks: Annotated[tuple[str, ...], Option(TASKS, read=listed)] = ()
    """Multiple-choice tasks, separated by commas: names in lm-eval, e.g. piqa, or FILEs of questions (.jsonl)."""
    limit: Annotated[int | None, Option(TASKS, low=1, default="all")] = None
    """Use at most N questions per task."""
    speed: Annotated[bool, Option("Speed")] = True
    """Measure the speed of prefill and decoding, in tokens per second."""

    def __post_init__(self) -> None:
        refuse_non_model("against", *self.against)
        self.devices.refuse_others(self.source.device)
