"""Which texts a model is calibrated and measured on."""

from dataclasses import dataclass

from remodeler.checkpoint.load import Checkpoint
from remodeler.data.sources import Sampled, sample
from remodeler.data.windows import Packing
from remodeler.evaluation.metrics import LENGTH


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
