"""How to prune; and the job that comes of it once both are loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remodeler.checkpoint.forms import Form
from remodeler.checkpoint.load import Checkpoint
from remodeler.data.sources import Sampled
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.evaluation.metrics import model_windows
from remodeler.evaluation.texts import Text
from remodeler.pruning.search.budget import Budget
from remodeler.pruning.search.candidates import Shape
from remodeler.pruning.width.width import WIDTH_METHODS

BEST_WIDTH = "hybrid-grained"


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
