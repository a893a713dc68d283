"""Options that choose a model and how it is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from remodeler.model.families import FAMILIES
from remodeler.runs.options import Option, config

if TYPE_CHECKING:
    from remodeler.checkpoint.load import Checkpoint

MODEL = "Model"
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
ModelLike = Any
"""A folder, a GGUF file, a hub id, or a :class:`~remodeler.checkpoint.load.Checkpoint` that is loaded already."""


@config
class DeviceConfig:
    """Where a model runs, and whether its own code may."""

    trust_remote_code: Annotated[bool, Option(MODEL)] = False
    """Run the checkpoint's own modelling code."""
    device: Annotated[str, Option(MODEL)] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


@config
class LoadConfig(DeviceConfig):
    """How models are loaded."""

    family: Annotated[str | None, Option(MODEL, tuple(FAMILIES))] = None
    """Treat custom code as this model family."""
    dtype: Annotated[str, Option(MODEL, DTYPES)] = "auto"
    """Compute in auto (as stored; GGUF on a CPU: float32), float32, bfloat16 or float16."""

    def load(self, model: ModelLike, **other: Any) -> "Checkpoint":
        """Load a model; one that is loaded already is returned as it is."""
        from remodeler.checkpoint.load import Checkpoint, load

        if isinstance(model, Checkpoint):
            return model
        given = {name: getattr(self, name) for name in ("family", "trust_remote_code", "dtype", "device")}
        return load(model, **{**given, **other})


@config
class ModelConfig(LoadConfig):
    """A model, and how it is loaded."""

    model: Annotated[ModelLike, Option(positional=True)]
    """A model folder, a GGUF file or a hub id, e.g. Qwen/Qwen3-0.6B."""
    revision: Annotated[str | None, Option(MODEL)] = None
    """Branch, tag or commit on the hub."""

    def open(self, **other: Any) -> "Checkpoint":
        """Load it."""
        return self.load(self.model, revision=self.revision, **other)

    @property
    def name(self) -> str:
        """The folder or hub id."""
        return str(getattr(self.model, "name", self.model)) if not isinstance(self.model, Path) else str(self.model)


@config
class PublishConfig:
    """Push a finished result to the Hugging Face Hub: private, unless you say otherwise.

    Verbs that write a model do the same with `--push-to-hub USER/MODEL`.

    Example: `remodel publish small me/small --dry-run`
    """

    folder: Annotated[Path, Option(positional=True)]
    """A folder that a verb wrote."""
    name: Annotated[str, Option(positional=True)]
    """USER/MODEL on the Hub."""
    public: bool = False
    """If it is new, everybody may see it."""
    dry_run: bool = False
    """List what would be sent; send nothing."""
