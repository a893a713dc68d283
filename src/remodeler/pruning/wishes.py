"""What a person asks for: which model, which texts, how to prune; and the job that comes of it once both are loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from remodeler.checkpoints import Checkpoint, load
from remodeler.errors import InputError
from remodeler.evaluation import LENGTH, model_windows
from remodeler.forms import Form
from remodeler.pruning.budget import Budget
from remodeler.pruning.candidates import Shape
from remodeler.pruning.width import WIDTH_METHODS
from remodeler.sources import Sampled, sample
from remodeler.texts import Packing, Windows

BEST_WIDTH = "hybrid-grained"


@dataclass(frozen=True)
class Source:
    """Which model, and how to compute with it."""

    model: str
    revision: str | None = None
    family: str | None = None
    trust_remote_code: bool = False
    dtype: str = "auto"
    device: str = "auto"
    stream: bool = False
    """Read the layers from the disk as a pass reaches them: for models larger than memory."""

    def load(self) -> Checkpoint:
        """The checkpoint."""
        given = asdict(self)
        return load(given.pop("model"), **given)


@dataclass(frozen=True)
class Text:
    """What to calibrate on."""

    texts: str = "alpaca"
    samples: int = 256
    length: int | None = None
    """Tokens a window; by default 2,048, or what the model can read."""
    packing: Packing = "paper"
    seed: int = 42

    def sample(self) -> Sampled:
        """Calibration and held-out texts."""
        return sample(self.texts, self.samples, self.seed)

    def window(self, checkpoint: Checkpoint) -> int:
        """The window length for a model."""
        return min(LENGTH, checkpoint.context or LENGTH) if self.length is None else self.length


@dataclass(frozen=True)
class Plan:
    """How to prune."""

    method: str = "blockpruner"
    criterion: str | None = None
    """Another measure of importance than the method's own."""
    unit: str = "block"
    shape: Shape = "free"
    protect: bool = True
    """Keep the layers that the method's paper keeps."""
    search: str = "exact"
    error: float = 0.01
    """Of a race: probability, over the whole search, of dropping the best candidate of a step."""
    refine: bool = False
    then: str | None = None
    """What chooses heads and channels after the blocks: a row of ``WIDTH_METHODS``, or ``width`` for the best."""
    blocks_share: float = 0.44
    """Share of the ratio that the blocks take then, the rest being for heads and channels (MultiPruner's)."""
    width_options: Mapping[str, Any] = field(default_factory=dict)
    form: str = "auto"
    batch_size: int | None = None
    start: Path | None = None
    """A removal log to go on from."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size} was given, at least 1 was expected: raise it")

    @property
    def width(self) -> str | None:
        """The method that chooses heads and channels, if one does."""
        return self.method if self.method in WIDTH_METHODS else {"width": BEST_WIDTH}.get(self.then or "", self.then)

    def blocks_first(self, budget: Budget) -> Budget:
        """The blocks' part of a budget."""
        return Budget(ratio=(budget.ratio or 0.0) * self.blocks_share)

    def path(self) -> dict[str, Any]:
        """What decides the path of the search, unlike how far it goes and how it is written; defaults left out."""
        always = {"method": self.method, "unit": self.unit, "shape": self.shape}
        given: dict[str, Any] = {"criterion": self.criterion, "protect": None if self.protect else False}
        given |= {"search": self.search, "error": self.error} if self.search != "exact" else {}
        return always | {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Job:
    """A loaded model, the texts it is measured on, and the form it is written in (None: the best that can hold)."""

    checkpoint: Checkpoint
    text: Text
    sampled: Sampled
    form: Form | None

    def windows(self) -> Windows:
        """The calibration text, cut to what the model reads at once."""
        length = self.text.window(self.checkpoint)
        return model_windows(self.checkpoint, self.sampled.calibration, length, self.text.packing)
