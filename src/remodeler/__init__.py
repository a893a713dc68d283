"""Remodeler makes new language models out of existing ones, without training from scratch.

Importing the package is free: torch and transformers are loaded by the names below when they are first used.
"""

from typing import TYPE_CHECKING

from remodeler.runs.lazy import lazy

if TYPE_CHECKING:
    from remodeler import alignment, auditing, exporting, fusion, merging, pruning, recovery
    from remodeler.alignment.job import align
    from remodeler.auditing.job import audit
    from remodeler.auditing.spans import Span
    from remodeler.checkpoint.load import Checkpoint, load
    from remodeler.checkpoint.publish import publish
    from remodeler.cli.results import report
    from remodeler.errors import InputError
    from remodeler.evaluation.job import evaluate
    from remodeler.exporting.job import export
    from remodeler.fusion.job import fuse
    from remodeler.merging.job import merge
    from remodeler.pruning.api import PruneResult, cut, prune
    from remodeler.recovery.job import recover
    from remodeler.runs.records import Record
    from remodeler.runs.units import Block

__version__ = "0.1.0"
__all__ = [
    "Block",
    "Checkpoint",
    "InputError",
    "PruneResult",
    "Record",
    "Span",
    "__version__",
    "align",
    "alignment",
    "audit",
    "auditing",
    "cut",
    "evaluate",
    "export",
    "exporting",
    "fuse",
    "fusion",
    "load",
    "merge",
    "merging",
    "prune",
    "pruning",
    "publish",
    "recover",
    "recovery",
    "report",
]

_PLACES = {
    "Block": "runs.units",
    "Checkpoint": "checkpoint.load",
    "InputError": "errors",
    "PruneResult": "pruning.api",
    "Record": "runs.records",
    "Span": "auditing.spans",
    "align": "alignment.job",
    "audit": "auditing.job",
    "cut": "pruning.api",
    "evaluate": "evaluation.job",
    "export": "exporting.job",
    "fuse": "fusion.job",
    "load": "checkpoint.load",
    "merge": "merging.job",
    "prune": "pruning.api",
    "publish": "checkpoint.publish",
    "recover": "recovery.job",
    "report": "cli.results",
} | dict.fromkeys(("alignment", "auditing", "exporting", "fusion", "merging", "pruning", "recovery"), "")
"""Where the names are defined."""
__getattr__, __dir__ = lazy(__name__, _PLACES)
