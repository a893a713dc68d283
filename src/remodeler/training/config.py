"""Options of everything that trains. A verb gives its own defaults: ``OptimizationConfig(epochs=2.0)``."""

from typing import Annotated, Literal

from remodeler.runs.options import Option, config

Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["no", "bf16", "fp16"]
OPTIMIZATION, MEMORY, ADAPTERS = "Optimization", "Memory and speed", "Adapters"


@config
class OptimizationConfig:
    """How long and how fast a model learns."""

    steps: Annotated[int | None, Option(OPTIMIZATION, low=1, default="as the epochs")] = None
    """Number of optimizer steps."""
    epochs: Annotated[float | None, Option(OPTIMIZATION, above=0, default="by method")] = None
    """Number of epochs."""
    learning_rate: Annotated[float | None, Option(OPTIMIZATION, above=0, default="by method")] = None
    """Peak learning rate."""
    train_batch_size: Annotated[int | None, Option(OPTIMIZATION, low=1, default="by method")] = None
    """Windows or examples per optimizer step."""
    schedule: Annotated[Schedule | None, Option(OPTIMIZATION, default="by method")] = None
    """Learning rate schedule."""
    warmup: Annotated[float | None, Option(OPTIMIZATION, low=0, high=1, default="by method")] = None
    """Share of the steps in which the learning rate grows."""


@config
class MemoryConfig:
    """What training takes of a device; it changes no result beyond rounding."""

    micro_batch_size: Annotated[int | None, Option(MEMORY, low=1, default="2,048 tokens")] = None
    """Windows or examples per forward and backward pass; gradients of a step are accumulated."""
    precision: Annotated[str, Option(MEMORY, ("auto", "no", "bf16", "fp16"))] = "auto"
    """Mixed precision: auto, no, bf16 or fp16."""
    checkpointing: Annotated[bool, Option(MEMORY)] = False
    """Gradient checkpointing: less memory, a third more time."""
    save_minutes: Annotated[float, Option(MEMORY, low=0)] = 10.0
    """Minutes between two states of the run on disk, from which it resumes."""


@config
class AdapterConfig:
    """LoRA adapters."""

    adapters: Annotated[bool | None, Option(ADAPTERS, default="by method")] = None
    """Train LoRA adapters (or, negated, all parameters)."""
    rank: Annotated[int | None, Option(ADAPTERS, low=1, default="by method")] = None
    """LoRA rank."""
    alpha: Annotated[float | None, Option(ADAPTERS, above=0, default="by method")] = None
    """LoRA alpha (scaling = alpha / rank)."""
    dropout: Annotated[float | None, Option(ADAPTERS, low=0, below=1, default="by method")] = None
    """Dropout before the adapters."""
