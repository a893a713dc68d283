"""Align a model by reviser-guided self-training: it learns from its own answers, selected and edited by a reviser."""

from remodeler.runs.lazy import lazy

_PLACES = {
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
__getattr__, __dir__ = lazy(__name__, _PLACES)
