"""Options of everything that trains. A verb gives its own defaults: ``OptimizationConfig(epochs=2.0)``."""

from typing import Annotated, Literal

from remodeler.errors import InputError, option
from remodeler.runs.options import Option, config

Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["no", "bf16", "fp16"]
OPTIMIZATION, MEMORY, ADAPTERS = "Optimization", "Memory and speed", "Adapters"


@config
class OptimizationConfig:
    """How long and how fast a model learns."""

    steps: Annotated[int | None, Option(OPTIMIZATION, low=1)] = None
    """Number of optimizer steps, instead of `epochs`."""
    epochs: Annotated[float | None, Option(OPTIMIZATION, above=0)] = None
    """Number of passes over the training texts."""
    learning_rate: Annotated[float | None, Option(OPTIMIZATION, above=0)] = None
    """Peak learning rate (AdamW)."""
    train_batch_size: Annotated[int | None, Option(OPTIMIZATION, low=1)] = None
    """Windows or examples per optimizer step."""
    schedule: Annotated[Schedule | None, Option(OPTIMIZATION)] = None
    """Learning rate after the warm-up: linear or cosine decay, or constant."""
    warmup: Annotated[float | None, Option(OPTIMIZATION, low=0, high=1)] = None
    """Share of the steps in which the learning rate grows linearly, e.g. 0.03."""


def refuse_steps_and_epochs(given: OptimizationConfig, usual: float | None = None) -> None:
    """Refuse a length that is given twice.

    Args:
        given: the options.
        usual: epochs where none are given.

    Raises:
        InputError: for a number of steps beside a number of epochs.
    """
    if given.steps is not None and given.epochs not in (None, usual):
        raise InputError(f"{option('steps')} and {option('epochs')} were given: give one of them")


@config
class MemoryConfig:
    """What training takes of a device; it changes no result beyond rounding."""

    micro_batch_size: Annotated[int | None, Option(MEMORY, low=1, default="about 2,048 tokens")] = None
    """Windows or examples per forward and backward pass; gradients accumulate to the step. Lower it to save memory."""
    precision: Annotated[str, Option(MEMORY, ("auto", "no", "bf16", "fp16"))] = "auto"
    """Mixed precision: bf16, fp16, no, or auto (bf16 where the device has it)."""
    checkpointing: Annotated[bool, Option(MEMORY)] = False
    """Gradient checkpointing: less memory, about a third more time."""
    save_minutes: Annotated[float, Option(MEMORY, low=0)] = 10.0
    """Minutes between two saves of the training state, from which an interrupted run resumes."""


@config
class ShardConfig:
    """Weights of several processes."""

    fsdp: Annotated[bool, Option(MEMORY)] = False
    """Share weights, gradients and optimizer state out among the processes of torchrun (FSDP2), which take less memory
    each."""


@config
class AdapterConfig:
    """LoRA adapters."""

    adapters: Annotated[bool | None, Option(ADAPTERS)] = None
    """Train LoRA adapters instead of all parameters."""
    rank: Annotated[int | None, Option(ADAPTERS, low=1)] = None
    """LoRA rank."""
    alpha: Annotated[float | None, Option(ADAPTERS, above=0)] = None
    """LoRA alpha (scaling = alpha / rank)."""
    dropout: Annotated[float | None, Option(ADAPTERS, low=0, below=1)] = None
    """LoRA dropout probability."""
