"""What a pruning run works on, once it is loaded: the model and its texts."""

from dataclasses import dataclass

from remodeler.checkpoint.forms import Form
from remodeler.checkpoint.load import Checkpoint
from remodeler.data.config import TextConfig
from remodeler.data.sources import Sampled
from remodeler.data.windows import Windows
from remodeler.evaluation.metrics import model_windows, window_length


@dataclass(frozen=True)
class Inputs:
    """A loaded model, the texts it is measured on, and the form it is written in."""

    checkpoint: Checkpoint
    texts: TextConfig
    sampled: Sampled
    form: Form | None
    """None: the most portable form possible."""
    file: str = ""
    """Name of the GGUF file that is written, instead of a folder's model."""
    keep_ahead: bool = True
    """Whether layers that predict tokens further ahead (MTP) are carried along."""

    @property
    def length(self) -> int:
        """Tokens per window."""
        return window_length(self.texts.length, self.checkpoint)

    def windows(self) -> Windows:
        """The calibration text, cut to what the model reads at once."""
        return model_windows(self.checkpoint, self.sampled.calibration, self.length, self.texts.packing)
