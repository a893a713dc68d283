"""Evaluate from start to finish: load, measure side by side, write record and report."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from remodeler.checkpoint.load import Checkpoint, load
from remodeler.errors import InputError
from remodeler.evaluation.metrics import evaluate, evaluation_texts
from remodeler.evaluation.results import EvaluateResults
from remodeler.model.logprobs import vocabulary
from remodeler.report.cliff import guessing_warning
from remodeler.report.page import write_result
from remodeler.runs.folders import new_folder, refuse_existing
from remodeler.runs.records import Record, versions

Show = Callable[[EvaluateResults], object]

logger = logging.getLogger(__name__)


def nobody(_: EvaluateResults) -> None:
    """Nobody looks."""


def evaluate_models(
    names: Sequence[str],
    revisions: Sequence[str | None],
    loading: dict[str, Any],
    options: dict[str, Any],
    tasks: Sequence[str],
    out: Path | None,
    show: Show = nobody,
) -> Record:
    """Measure models; with ``out`` also write ``record.json`` and the report to that new folder.

    Args:
        names: folders or hub ids.
        revisions: one for each name.
        loading: ``family``, ``trust_remote_code``, ``dtype`` and ``device``, the same for all.
        options: ``texts`` (None: no perplexity), ``length``, ``packing``, ``limit`` and ``speed``.
        tasks: lm-eval tasks and local question files.
        out: a folder that does not exist yet.
        show: called with the results before anything is written, so that a full disk loses none.
    """
    if out:
        refuse_existing(out)
    if options["limit"] is not None and not tasks:
        raise InputError(f"--limit {options['limit']} was given without --tasks, whose questions it counts: add some")
    source = options["texts"]
    texts = evaluation_texts(source) if source else []
    with new_folder(out) if out else nullcontext() as work:  # now: a place that can't be written costs no measurement
        checkpoints = [load(name, revision=rev, **loading) for name, rev in zip(names, revisions, strict=True)]
        logger.info(f"measuring {' and '.join(names)}")
        results = _results(names, checkpoints, texts, options, tasks)
        show(results)
        inputs = {"models": dict(zip(names, revisions, strict=True)), "texts": {"source": source}}
        asked = {**loading, **options, "tasks": list(tasks)}
        record = Record("evaluate", asked, inputs, 42, versions(), results.to_record())
        if work:
            write_result(work, record, results)
    return record


def _results(
    names: Sequence[str],
    checkpoints: Sequence[Checkpoint],
    texts: Sequence[str],
    options: dict[str, Any],
    tasks: Sequence[str],
) -> EvaluateResults:
    """What was measured, and the warning of models that only guess."""
    measured = {key: options[key] for key in ("length", "packing", "limit", "speed")}
    scores = evaluate(checkpoints, texts, tasks=tasks, **measured)
    sizes = [vocabulary(checkpoint.model) for checkpoint in checkpoints]
    found = guessing_warning(names, [each.get("perplexity") for each in scores], sizes)
    return EvaluateResults(checkpoints=scores, warning=found)
