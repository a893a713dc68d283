"""Options that choose texts."""

from typing import Annotated, Literal

from remodeler.data.sources import Sampled, sample
from remodeler.runs.options import Option, config

TEXTS = "Texts"
Packing = Literal["paper", "per-text"]


@config
class TextConfig:
    """Texts to calibrate on, and those held out from them."""

    texts: Annotated[str, Option(TEXTS)] = "alpaca"
    """alpaca, wikitext2, c4, python (its documentation; offline), hf:NAME[:CONFIG][:SPLIT], or a FILE (.txt, .jsonl,
    .json, .csv, .parquet)."""
    samples: Annotated[int, Option(TEXTS, low=1)] = 256
    """Number of calibration texts; the same number is held out for evaluation."""
    length: Annotated[int | None, Option(TEXTS, low=1, default="2048, or the model's context")] = None
    """Tokens per window."""
    packing: Annotated[Packing, Option(TEXTS)] = "paper"
    """paper: join all texts and cut them into equal windows; per-text: one padded window per text."""
    seed: Annotated[int, Option(TEXTS)] = 42
    """Random seed: of the texts that are drawn, the search and training."""

    def sample(self) -> Sampled:
        """Draw calibration and held-out texts."""
        return sample(self.texts, self.samples, self.seed)
