"""Evaluate from start to finish: load, measure side by side, write record and report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from remodeler.checkpoints import load
from remodeler.cliff import guessing_warning
from remodeler.console import note
from remodeler.errors import InputError
from remodeler.evaluation import evaluate, evaluation_texts
from remodeler.folders import new_folder, refuse_existing
from remodeler.logprobs import vocabulary
from remodeler.records import Record, save_record, versions

Finish = Callable[[Path], object]


def evaluate_models(
    names: Sequence[str],
    revisions: Sequence[str | None],
    loading: dict[str, Any],
    options: dict[str, Any],
    tasks: Sequence[str],
    out: Path | None,
    finish: Finish,
) -> Record:
    """Measure models; with ``out`` also write ``record.json`` and the report to that new folder.

    Args:
        names: folders or hub ids.
        revisions: one for each name.
        loading: ``family``, ``trust_remote_code``, ``dtype`` and ``device``, the same for all.
        options: ``texts`` (None: no perplexity), ``length``, ``packing``, ``limit`` and ``speed``.
        tasks: lm-eval tasks and local question files.
        out: a folder that does not exist yet.
        finish: called with the folder when the record is in it.
    """
    if out:
        refuse_existing(out)
    if options["limit"] is not None and not tasks:
        raise InputError(f"--limit {options['limit']} was given without --tasks, whose questions it counts: add some")
    source = options["texts"]
    texts = evaluation_texts(source) if source else []
    checkpoints = [load(name, revision=rev, **loading) for name, rev in zip(names, revisions, strict=True)]
    note(f"measuring {' and '.join(names)}")
    measured = {key: options[key] for key in ("length", "packing", "limit", "speed")}
    scores = evaluate(checkpoints, texts, tasks=tasks, **measured)
    results: dict[str, Any] = {"checkpoints": scores}
    sizes = [vocabulary(checkpoint.model) for checkpoint in checkpoints]
    if found := guessing_warning(names, [each.get("perplexity") for each in scores], sizes):
        results["warning"] = found
    inputs = {"models": dict(zip(names, revisions, strict=True)), "texts": {"source": source}}
    record = Record("evaluate", {**loading, **options, "tasks": list(tasks)}, inputs, 42, versions(), results)
    if out:
        with new_folder(out) as work:
            save_record(work, record)
            finish(work)
    return record
