"""Align a model by reviser-guided self-training: it learns from its own answers, selected and edited by a reviser."""

from importlib import import_module
from typing import Any

PLACES = {
    "align": "job",
    "train_reviser": "reviser.train",
    "revise": "reviser.revise",
    "load_reviser": "reviser.reviser",
    "evolve": "evolution.job",
    "FILTERS": "evolution.filters",
    "train_baseline": "baselines.job",
    "BASELINES": "baselines.job",
    "answer": "judging.job",
    "judge": "judging.job",
    "compare": "judging.compare",
    "JUDGES": "judging.judges",
}
"""What this room offers, and the module of each: imported when it is asked for, since these need torch."""


def __getattr__(name: str) -> Any:
    if name in PLACES:
        return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
