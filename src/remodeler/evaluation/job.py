"""Evaluate from start to finish: load, measure side by side, write record and report."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from remodeler.checkpoint.load import Checkpoint, look
from remodeler.errors import InputError, option
from remodeler.evaluation.config import EvaluateConfig
from remodeler.evaluation.metrics import evaluation_texts, measure
from remodeler.evaluation.results import EvaluateResults
from remodeler.model.logprobs import vocabulary
from remodeler.reporting.cliff import guessing_warning
from remodeler.reporting.page import write_result
from remodeler.runs.job import Job, run
from remodeler.runs.options import as_recorded, build, flat
from remodeler.runs.records import Record, load_record, versions
from remodeler.runs.signatures import with_signature

Show = Callable[[EvaluateResults], object]

logger = logging.getLogger(__name__)
NO_SEED = 42
"""Nothing is drawn; records have had this number."""


@with_signature(EvaluateConfig, "model")
def evaluate(models: Any, **options: Any) -> EvaluateResults:
    """Measure models side by side.

    Args:
        models: a folder, a hub id or a loaded checkpoint, or several of them.
        options: as of :class:`~remodeler.evaluation.config.EvaluateConfig`.

    Raises:
        InputError: for what can't work, before anything is measured.
    """
    first, *others = (models if isinstance(models, list | tuple) else [models]) or [None]
    return evaluate_models(build(EvaluateConfig, {"model": first, "against": tuple(others), **options}))


def evaluate_models(config: EvaluateConfig, show: Show = lambda results: None) -> EvaluateResults:
    """Measure models; with a place for it, also write ``record.json`` and the report to that new folder.

    Args:
        config: what, and how.
        show: called with the results before anything is written, so that a full disk loses none.
    """
    if config.limit is not None and not config.tasks:
        raise InputError(
            f"{option('limit', config.limit)} was given without {option('tasks')}, whose questions it counts: add some"
        )
    found = run(lambda device: _job(config, show), config.out)
    assert found is not None
    return found


def _job(config: EvaluateConfig, show: Show) -> Job[EvaluateResults]:
    given = (config.source.model, *config.against)
    names = [str(as_recorded(each)) for each in given]
    for each in given:
        if isinstance(each, str | Path):  # before the texts, which may have to be downloaded
            look(str(each), revision=config.source.revision if each is config.source.model else None)
    texts = evaluation_texts(config.texts) if config.texts else []

    def work(folder: Path) -> EvaluateResults:
        results = _results(config, names, texts)
        show(results)
        return results

    def describe(folder: Path, results: EvaluateResults) -> None:
        if config.out:
            write_result(folder, _record(config, names, results), results)

    return Job(_options(config), work, describe, lambda folder: EvaluateResults.parse(load_record(folder)))


def _options(config: EvaluateConfig) -> dict[str, Any]:
    others = ("model", "against", "revision", "out")
    return {name: value for name, value in flat(config).items() if name not in others} | {"tasks": list(config.tasks)}


def _record(config: EvaluateConfig, names: Sequence[str], results: EvaluateResults) -> Record:
    revisions = [config.source.revision, *(None for _ in config.against)]
    inputs = {"models": dict(zip(names, revisions, strict=True)), "texts": {"source": config.texts}}
    return Record("evaluate", _options(config), inputs, NO_SEED, versions(), results.to_record())


def _results(config: EvaluateConfig, names: Sequence[str], texts: Sequence[str]) -> EvaluateResults:
    """What was measured, and the warning of models that only guess."""
    source = config.source
    where = config.devices.where()
    others = config.devices.where_others()
    checkpoints: list[Checkpoint] = [source.open(**where), *(source.load(each, **others) for each in config.against)]
    logger.info(f"measuring {' and '.join(names)}")
    how: dict[str, Any] = {"length": config.length, "packing": config.packing, "limit": config.limit}
    scores = measure(checkpoints, texts, tasks=config.tasks, speed=config.speed, **how)
    sizes = [vocabulary(checkpoint.model) for checkpoint in checkpoints]
    found = guessing_warning(names, [each.get("perplexity") for each in scores], sizes)
    return EvaluateResults(checkpoints=scores, warning=found)
