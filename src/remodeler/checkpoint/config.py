"""Options that choose a model and how it is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from remodeler.errors import InputError, option
from remodeler.runs.config import OUTPUT
from remodeler.runs.options import Option, config

if TYPE_CHECKING:
    from remodeler.checkpoint.load import Checkpoint

MODEL = "Model"
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
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
