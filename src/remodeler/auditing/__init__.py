"""Find and count toxic spans, in texts and in what models write.

The names below are imported when they are first used: they need torch.
"""

from importlib import import_module
from typing import Any

EXPORTS = {
    "DETECTORS": "detectors.table",
    "audit": "job",
    "convert": "prediction_files",
    "detector": "detectors.table",
    "learn_lexicon": "detectors.lexicon",
    "predict": "tagger.predict_job",
    "score": "prediction_files",
    "train_tagger": "tagger.train_job",
    "vote": "tagger.predict_job",
}
"""Public names of this package, and the modules that define them."""


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    """Public names too."""
    return sorted({*globals(), *EXPORTS})
