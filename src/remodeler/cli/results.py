"""Which class holds what a verb found: for reports of any folders, and for the tables that verbs end with."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from remodeler.errors import InputError
from remodeler.reporting.results import Results
from remodeler.runs.records import Record

RESULTS = {
    "prune": "remodeler.pruning.results:PruneResults",
    "cut": "remodeler.pruning.results:PruneResults",
    "recover": "remodeler.recovery.results:RecoverResults",
    "merge": "remodeler.merging.results:MergeResults",
    "fuse": "remodeler.fusion.results:FuseResults",
    "align train-reviser": "remodeler.alignment.reviser.results:ReviserResults",
    "align revise": "remodeler.alignment.reviser.results:ReviseResults",
    "align evolve": "remodeler.alignment.evolution.results:EvolveResults",
    "align baseline": "remodeler.alignment.baselines.results:BaselineResults",
    "align compare": "remodeler.alignment.judging.results:CompareResults",
    "audit": "remodeler.auditing.results:AuditResults",
    "audit train": "remodeler.auditing.tagger.results:TaggerResults",
    "evaluate": "remodeler.evaluation.results:EvaluateResults",
    "export": "remodeler.exporting.results:ExportResults",
}
"""By verb the class, as ``module:name``; imported when a record asks for it."""


def results_of(record: Record) -> Results:
    """What a verb found, from its record.

    Raises:
        InputError: for a verb that this version does not know.
    """
    if record.verb not in RESULTS:
        raise InputError(f"the record is of the verb {record.verb!r}: one of {', '.join(RESULTS)} was expected")
    module, _, name = RESULTS[record.verb].partition(":")
    kind: type[Results] = getattr(import_module(module), name)
    return kind.parse(record)


def report(folders: Sequence[Path | str] | Path | str, out: Path | str = "remodel-report.html") -> Path:
    """Compare results on one page: figures side by side, trade-offs in one plot, memory, block maps.

    Args:
        folders: those that verbs wrote; one alone has a page already.
        out: the new file.

    Raises:
        InputError: for a folder without a record, or one that can't be shown, or a page that is there already.
    """
    from remodeler.reporting.together import write_together

    several = [folders] if isinstance(folders, str | Path) else folders
    return write_together(list(map(Path, several)), Path(out), results_of)
