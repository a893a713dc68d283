"""Train a reviser: a warm-up reviser that only rewrites, the difficulty of every revision by it, the adaptive reviser.

All is done in ``OUT.partial``, renamed to OUT at the end; every phase is on disk before the next begins, and the same
command resumes what a kill interrupted. Several processes share the training; the first alone scores.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from remodeler.alignment.config import ReviserConfig
from remodeler.alignment.data.preferences import Triple, triples_digest
from remodeler.alignment.phases import REMEDY, TrainingSet, provenance, train_phase
from remodeler.alignment.records import RUN, identity, record_options, refuse_other_run
from remodeler.alignment.reviser import calibration
from remodeler.alignment.reviser.difficulty import (
    Difficulty,
    LabelledExample,
    label_counts,
    label_triples,
    major_threshold,
    measure_agreement,
    measure_difficulties,
)
from remodeler.alignment.reviser.prepare import ReviserInputs, announce, prepare, preview, warm_up_training
from remodeler.alignment.reviser.results import ReviserResults
from remodeler.alignment.reviser.reviser import Reviser, label_probabilities, make_reviser, quality, write_settings
from remodeler.alignment.reviser.scoring import map_resumably
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.sizes import memory
from remodeler.reporting.page import write_result
from remodeler.runs import processes
from remodeler.runs.job import Job, run
from remodeler.runs.options import build
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, load_record, read_lines, versions
from remodeler.runs.runlog import RunLog
from remodeler.runs.signatures import with_signature
from remodeler.training.state import CURVE_FILE

logger = logging.getLogger(__name__)

WARM_UP, ADAPTIVE = "warm-up", "adaptive"
"""Folders of the phases."""
DIFFICULTY = "difficulty.jsonl"


@with_signature(ReviserConfig)
def train_reviser(model: ModelLike, **options: Any) -> ReviserResults | None:
    """Train a reviser from preferences, and write it to a new folder.

    Args:
        model: what becomes the reviser: a folder, a hub id or a loaded checkpoint, which stays as it is.
        **options: those of :class:`~remodeler.alignment.config.ReviserConfig`, by name.

    Returns:
        What came of it; None in a dry run, and in all processes but the first.

    Raises:
        InputError: for what can't work.
    """
    return train_reviser_model(build(ReviserConfig, {"model": model, **options}))


def train_reviser_model(config: ReviserConfig) -> ReviserResults | None:
    """Train a reviser as a config says; in a dry run only say what would be done."""
    out = config.run.folder()
    return run(
        lambda device: _job(config, device, out),
        out,
        device=config.source.device,
        remedy=REMEDY,
        dry_run=config.run.dry_run,
    )


def _job(config: ReviserConfig, device: str, out: Path) -> Job[ReviserResults]:
    inputs, header = prepare(config, device), identity(config)
    refuse_other_run(out, header)
    return Job(
        record_options(config),
        partial(_work, inputs, header),
        partial(_describe, inputs),
        lambda folder: ReviserResults.parse(load_record(folder)),
        announce=lambda: announce(inputs, out),
        preview=lambda: preview(inputs),
        assist=lambda folder: _train_phases(inputs, folder),
        kept=(RUN, WARM_UP, ADAPTIVE, DIFFICULTY),
        scratch=(RUN, WARM_UP, ADAPTIVE),
    )


# The phases -----------------------------------------------------------------------------------------------------------


def _train_phases(inputs: ReviserInputs, work: Path) -> tuple[list[Difficulty], list[Difficulty], Path]:
    """Difficulties of the training triples and of the held-out ones, and the folder of the adaptive reviser."""
    config, train, heldout = inputs.config, inputs.data.train, inputs.data.heldout
    data = TrainingSet(inputs.rewrites(train, config.warm_up.copies), inputs.rewrites(heldout))
    warm_up = train_phase(
        lambda: inputs.load(config.source.model), data, warm_up_training(config), work / WARM_UP, "warm-up reviser"
    )
    found = processes.from_first(_difficulties(inputs, warm_up, work) if processes.is_first() else None)
    assert found is not None
    known, rest = found[: len(train)], found[len(train) :]
    limit, seed = major_threshold(known, config.labels), config.training.seed
    examples, others = (
        inputs.rows(label_triples(part, each, config.labels, limit, seed))
        for part, each in ((train, known), (heldout, rest))
    )
    start = config.source.model if config.warm_up.afresh else warm_up
    data = TrainingSet(examples, others, config.labels.label_weight)
    title = "adaptive reviser"
    return known, rest, train_phase(lambda: inputs.load(start), data, config.training, work / ADAPTIVE, title)


def _difficulties(inputs: ReviserInputs, warm_up: Path, work: Path) -> list[Difficulty]:
    """Difficulties of all triples by the warm-up reviser; a line of ``difficulty.jsonl`` each."""
    triples = [*inputs.data.train, *inputs.data.heldout]
    loaded: list[Checkpoint] = []

    def measure(chunk: Sequence[Triple]) -> list[dict[str, Any]]:
        if not loaded:
            loaded.append(inputs.load(warm_up))
        return [asdict(each) for each in measure_difficulties(loaded[0], inputs.template, chunk)]

    header = {"triples": triples_digest(triples), "model": inputs.weights}
    with progress_bar("difficulty") as progress:
        lines = map_resumably(work / DIFFICULTY, header, triples, measure, progress)
    return [Difficulty(**line) for line in lines]


# The result -----------------------------------------------------------------------------------------------------------


def _work(inputs: ReviserInputs, header: dict[str, Any], work: Path) -> ReviserResults:
    """Train, write the reviser, and measure it on the held-out triples."""
    RunLog(work / RUN).resume(header)
    known, rest, done = _train_phases(inputs, work)
    shutil.copytree(done, work, dirs_exist_ok=True)
    shutil.copyfile(work / ADAPTIVE / CURVE_FILE, work / CURVE_FILE)
    data, rule, seed = inputs.data, inputs.config.labels, inputs.config.training.seed
    limit, trained = major_threshold(known, rule), make_reviser(inputs.load(done), inputs.template)
    examples, others = (
        label_triples(part, each, rule, limit, seed) for part, each in ((data.train, known), (data.heldout, rest))
    )
    labels = {"measure": rule.difficulty, "major": rule.major_share, "none": rule.none_share, "floor": rule.gain_floor}
    facts = {"labels": labels | {"threshold": limit}, "label_weight": rule.label_weight}
    write_settings(work, inputs.template, trained.marks, facts)
    results = ReviserResults(
        reviser=memory(trained.checkpoint),
        triples={"train": len(data.train), "held out": len(data.heldout), "left out": dict(data.dropped)},
        labels={"threshold": limit, "train": label_counts(examples), "held out": label_counts(others)},
        agreement=measure_agreement(known),
        **_evaluate(trained, data.heldout, others, seed),
        losses={name: _losses(work / name / CURVE_FILE) for name in (WARM_UP, ADAPTIVE)},
        **provenance(work),
    )
    logger.info(_summary(results))
    return results


def _evaluate(
    trained: Reviser, triples: Sequence[Triple], examples: Sequence[LabelledExample], seed: int
) -> dict[str, Any]:
    """Calibration on held-out labels, and how well quality separates better answers from worse ones."""
    found = label_probabilities(trained, [(each.prompt, each.response) for each in examples])
    sides = [
        [quality(row) for row in label_probabilities(trained, [(each.prompt, side) for each, side in pairs])]
        for pairs in ([(each, each.chosen) for each in triples], [(each, each.rejected) for each in triples])
    ]
    return {
        "calibration": calibration.label_metrics(found, [each.label for each in examples]),
        "separation": calibration.roc_area_interval(sides[0], sides[1], seed),
    }


def _losses(curve: Path) -> dict[str, float]:
    """Held-out loss of a phase before and after, in nats per token."""
    found = [line["heldout"] for line in read_lines(curve)[1:] if "heldout" in line]
    return {"before": found[0], "after": found[-1]} if found else {}


def _summary(results: ReviserResults) -> str:
    labels, apart = results.calibration, results.separation
    return (
        f"held-out labels: {labels['accuracy']:.1%} right (the most common label alone: {labels['chance']:.1%}); "
        f"calibration error {labels['calibration_error']:.3f}; better answers score higher in {apart['value']:.1%} of "
        f"pairs ({apart['low']:.1%} to {apart['high']:.1%})"
    )


def _describe(inputs: ReviserInputs, work: Path, results: ReviserResults) -> None:
    """Write the record, the card and the page."""
    config, data = inputs.config, inputs.data
    facts = {
        "model": {"name": config.source.name, "weights": inputs.weights},
        "preferences": {
            "name": config.data.preferences,
            "sha256": triples_digest((*data.train, *data.heldout)),
        },
    }
    options, seed = record_options(config), config.training.seed
    write_result(work, Record("align train-reviser", options, facts, seed, versions(), results.to_record()), results)
