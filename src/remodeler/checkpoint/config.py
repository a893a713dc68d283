"""Options that choose a model and how it is loaded."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from remodeler.errors import InputError, option
from remodeler.runs.config import OUTPUT
from remodeler.runs.options import Option, config

if TYPE_CHECKING:
    from remodeler.checkpoint.load import Checkpoint

MODEL = "Model"
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""accelerate's ways to lay a model over devices; all but the last use the accelerators alike."""
ModelLike = Any
"""A folder, a GGUF file, a hub id, or a :class:`~remodeler.checkpoint.load.Checkpoint` that is loaded already."""


def refuse_non_model(name: str, *models: ModelLike) -> None:
    """Raise for what is no model: an empty text, a transformers model without its files, a result.

    Args:
        name: of the option.
        models: as they were given; None where an option was left out.
    """
    for each in models:
        if each is not None and not (hasattr(each, "anatomy") or (isinstance(each, str | Path) and str(each))):
            given = repr(each) if isinstance(each, str) else f"a {type(each).__name__}"
            raise InputError(f"{option(name)} must be a folder, a hub id or a loaded checkpoint (got {given})")


@config
class DeviceConfig:
    """Where a model runs, and whether its own code may."""

    trust_remote_code: Annotated[bool, Option(MODEL)] = False
    """Run the modelling code that comes with the checkpoint. Only for sources that you trust."""
    device: Annotated[str, Option(MODEL)] = "auto"
    """Where to compute: cpu, cuda, cuda:1, mps, or auto (an accelerator if there is one)."""


@config
class LoadConfig(DeviceConfig):
    """How models are loaded."""

    family: Annotated[str | None, Option(MODEL)] = None
    """Model family whose layers the checkpoint's own code has, where its type is unknown, e.g. llama."""
    dtype: Annotated[str, Option(MODEL, DTYPES)] = "auto"
    """Compute in float32, bfloat16, float16, float64, or auto: as the weights are stored, on a CPU float32 where that
    is faster."""

    def load(self, model: ModelLike, **other: Any) -> "Checkpoint":
        """Load a model; one that is loaded already is returned as it is."""
        from remodeler.checkpoint.load import Checkpoint, load

        refuse_non_model("model", model)
        if isinstance(model, Checkpoint):
            if other.get("device_map") not in (None, model.device_map):
                raise InputError(f"{option('device_map')} was given for {model.name}, which is loaded: leave it out")
            return model
        given = {name: getattr(self, name) for name in ("family", "trust_remote_code", "dtype", "device")}
        return load(model, **{**given, **other})


@config
class ModelConfig(LoadConfig):
    """A model, and how it is loaded."""

    model: Annotated[ModelLike, Option(positional=True)]
    """A model: a folder, a GGUF file, or an id on the Hugging Face Hub, e.g. Qwen/Qwen3-0.6B."""
    revision: Annotated[str | None, Option(MODEL)] = None
    """Branch, tag or commit of the model on the Hub."""

    def __post_init__(self) -> None:
        if self.model is None:
            raise InputError(f"{option('model')} must be given: a folder, a hub id or a loaded checkpoint")
        refuse_non_model("model", self.model)

    def open(self, **other: Any) -> "Checkpoint":
        """Load it."""
        return self.load(self.model, revision=self.revision, **other)

    @property
    def name(self) -> str:
        """The folder or hub id."""
        return str(getattr(self.model, "name", self.model)) if not isinstance(self.model, Path) else str(self.model)


def memory_by_device(text: str) -> dict[int | str, int | str]:
    """``0=20GiB,cpu=64GiB`` as accelerate takes it: GPUs by their numbers."""
    pairs = [each.partition("=") for each in text.split(",")]
    if not all(device.strip() and size.strip() for device, _, size in pairs):
        raise ValueError("give devices and sizes as 0=20GiB,1=20GiB,cpu=64GiB")
    return {_number(device.strip()): _number(size.strip()) for device, _, size in pairs}


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


@config
class DeviceMapConfig:
    """Several devices for one model."""

    device_map: Annotated[Any, Option(MODEL)] = None
    """Lay the model over several devices, as accelerate does: auto, balanced, balanced_low_0, sequential, or a
    FILE.json of its modules and their devices."""
    max_memory: Annotated[Any, Option(MODEL, read=memory_by_device)] = None
    """With `device_map`: memory that weights may take of each device, e.g. 0=20GiB,1=20GiB,cpu=64GiB."""

    def __post_init__(self) -> None:
        told = self.device_map
        if told is not None and not isinstance(told, str | Path | Mapping):
            raise InputError(f"{option('device_map')} must be a name, a file or a dict (got a {type(told).__name__})")
        if isinstance(told, str) and told not in STRATEGIES and not told.endswith(".json"):
            raise InputError(
                f"{option('device_map')} {told!r} is unknown: choose {', '.join(STRATEGIES)} or a FILE.json"
            )
        if self.max_memory is not None and told not in STRATEGIES:
            why = "leave it out" if told else f"add {option('device_map', 'auto')}"
            raise InputError(f"{option('max_memory')} limits what {option('device_map')} by a strategy takes: {why}")
        if self.max_memory is not None and not isinstance(self.max_memory, Mapping):
            raise InputError(f"{option('max_memory')} must be a dict (got a {type(self.max_memory).__name__})")

    def refuse_others(self, device: str, stream: bool = False) -> None:
        """Raise for other options that say where a model is, and for several processes.

        Args:
            device: where else the model was to be.
            stream: whether its layers stay on the disk.
        """
        if self.device_map is None:
            return
        given = "device_map", str(self.device_map) if isinstance(self.device_map, str | Path) else "..."
        if stream:
            raise InputError(f"{option(*given)} was given with {option('stream')}: give one of them")
        if device != "auto":
            raise InputError(f"{option(*given)} was given with {option('device', device)}: give one of them")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError(
                f"{option(*given)} lays one model over all devices, and several processes were started: start one "
                f"(without torchrun), or leave {option('device_map')} out"
            )

    def where(self) -> dict[str, Any]:
        """As keywords of :func:`remodeler.checkpoint.load.load`; none where nothing was asked for."""
        if self.device_map is None:
            return {}
        return {"device_map": self.device_map, "max_memory": self.max_memory}

    def where_others(self) -> dict[str, Any]:
        """The same for models beside the one that is named first: a map of one's own is of that."""
        found = self.where()
        return found if found.get("device_map") in (None, *STRATEGIES) else {"device_map": "auto"}


@config
class PublishConfig:
    """Push a finished model to the Hugging Face Hub; a new repository is private unless `--public` is given.

    Commands that write a model can do this at their end: `--push-to-hub USER/MODEL`.

    Example: `remodel publish small me/small --dry-run`
    """

    folder: Annotated[Path, Option(positional=True)]
    """Folder with a model that remodel wrote."""
    name: Annotated[str, Option(positional=True)]
    """Name on the Hub: USER/MODEL."""
    public: Annotated[bool, Option(OUTPUT)] = False
    """Make a new repository public. One that exists stays as visible as it is."""
    dry_run: Annotated[bool, Option(OUTPUT)] = False
    """List the files that would be sent, and send nothing."""
