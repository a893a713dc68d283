"""Fuse from start to finish: store every teacher's predictions, make one target of them, train the student, measure it.

What a kill leaves in ``OUT.partial`` is resumed by the same command: shards of predictions, shards of targets, the
training run.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.load import fingerprint
from remodeler.checkpoint.sizes import announce_training_space, file_sizes
from remodeler.errors import InputError, option, quantity
from remodeler.fusion.config import HYBRID, FuseConfig, resolve
from remodeler.fusion.hybrid import group_facts, hybrid_loss, match_tokens
from remodeler.fusion.prepare import Inputs, announce, prepare
from remodeler.fusion.results import FuseResults
from remodeler.fusion.targets import FusedTargets, summarize
from remodeler.fusion.teacher_predictions import TeacherPredictions
from remodeler.fusion.teachers import predict, predict_own
from remodeler.model.logprobs import vocabulary
from remodeler.reporting.cliff import result_warning
from remodeler.reporting.page import write_result
from remodeler.runs import processes
from remodeler.runs.job import Job, run
from remodeler.runs.options import as_recorded, build, flat
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, load_record, versions
from remodeler.runs.signatures import with_signature
from remodeler.training.adapters import merge
from remodeler.training.loop import train
from remodeler.training.losses import Loss, cross_entropy, distillation
from remodeler.training.model import read_trained, trainable, write_trained
from remodeler.training.state import CURVE_FILE, STATES
from remodeler.training.teacher_store import Store, fill, read_from

logger = logging.getLogger(__name__)

PREDICTIONS, TARGETS = "predictions", "targets"
"""Folders inside the result that hold the work until it is done, beside that of the training."""
UNRELATED = ("device", "fsdp", "teacher_store", "save_minutes", "out", "push_to_hub", "dry_run")
"""Options that change nothing of a training run."""


@with_signature(FuseConfig)
def fuse(student: ModelLike, **options: Any) -> FuseResults | None:
    """Distil several teachers into one student, written to a new folder.

    Args:
        student: a folder, a hub id or a loaded checkpoint, which stays as it is: its files are read again.
        **options: those of :class:`~remodeler.fusion.config.FuseConfig`, by name.

    Returns:
        The student before and after, and how each teacher predicts; None in a dry run, and in all processes but the
        first.

    Raises:
        InputError: for what can't work.
    """
    return fuse_models(build(FuseConfig, {"student": student, **options}))


def fuse_models(config: FuseConfig) -> FuseResults | None:
    """Fuse by a config; in a dry run only log what would be done."""
    out = config.run.out
    if out is None:
        raise InputError(f"{option('out')} must be given: a new folder for the result")
    return run(
        lambda device: _job(config, device, out),
        out,
        device=config.loading.device,
        remedy=f"{option('micro_batch_size', 1)}, {option('checkpointing', True)} or {option('adapters', True)}",
        dry_run=config.run.dry_run,
    )


def _job(config: FuseConfig, device: str, out: Path) -> Job[FuseResults]:
    inputs = prepare(resolve(config), device)
    writes = processes.is_first() and not config.run.dry_run
    digest = fingerprint(inputs.student.model) if writes else ""  # of its weights before they are trained
    return Job(
        _record_options(inputs),
        partial(_work, inputs),
        partial(_describe, inputs, digest),
        lambda folder: FuseResults.parse(load_record(folder)),
        announce=lambda: announce_training_space(out, file_sizes(inputs.student), inputs.lora is None),
        preview=partial(_preview, inputs),
        assist=lambda folder: _train(inputs, folder, _predict(inputs, folder)),
        kept=(STATES, PREDICTIONS, TARGETS),
        scratch=(STATES, PREDICTIONS, TARGETS),
    )


def _preview(inputs: Inputs) -> None:
    """Log what training would do."""
    with trainable(inputs.student.anatomy, inputs.lora, inputs.config.seed):
        announce(inputs, cross_entropy)


def _work(inputs: Inputs, folder: Path) -> FuseResults:
    """Predict, train, write the model, read it back, and measure it."""
    before = inputs.scores(inputs.student)
    teachers = _predict(inputs, folder)
    by_teacher = summarize(inputs.config.target, teachers, inputs.tokenized)
    for name, figures in by_teacher.items():
        shown = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in figures.items())
        logger.info(f"{name}: {shown}")
    lines = _train(inputs, folder, teachers)
    inputs = _whole_again(inputs, folder) if inputs.sharded else inputs
    shutil.copyfile(folder / STATES / CURVE_FILE, folder / CURVE_FILE)
    logger.info(f"{quantity(lines[-1]['step'], 'step')} done: writing, reading back, measuring")
    saved = write_trained(inputs.student, folder)
    after = inputs.scores(saved.checkpoint)
    return FuseResults(
        student=before,
        teachers=by_teacher,
        fused=after,
        form=saved.form,
        check=asdict(saved.check),
        warning=_warning(inputs, before, after),
        steps=inputs.plan.steps,
        seconds=lines[-1]["seconds"],
        command=command_line(),
    )


def _warning(inputs: Inputs, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    """The warning that the result is of no use; None where it is usable, or no text was held out."""
    key = "heldout_perplexity"
    if key not in before:
        return None
    return result_warning(before[key], after[key], vocabulary(inputs.student.model), "held-out")


# The teachers ---------------------------------------------------------------------------------------------------------


def _predict(inputs: Inputs, folder: Path) -> list[TeacherPredictions]:
    """The predictions of all teachers, one model in memory after the other; the student's own come first."""
    config, student = inputs.config, inputs.student
    root = config.teacher_store or folder / PREDICTIONS
    found = []
    if config.itself:
        place = _store_folder(inputs, root, config.student)
        found.append(predict_own(student, inputs.tokenized, config.top_k, place))
    for each in config.teachers:
        teacher, place = inputs.load_teacher(each), _store_folder(inputs, root, each)
        common = (student, inputs.tokenized, teacher, inputs.texts, inputs.length, config.top_k, place)
        found.append(predict(*common, config.matching, config.divergence == HYBRID))
    return found


def _store_folder(inputs: Inputs, root: Path, model: ModelLike) -> Path:
    """A folder that tells models and texts apart, so that one root serves many runs."""
    name = str(as_recorded(model))
    content = [[each.text, each.spans] for each in inputs.texts] + [inputs.length, inputs.config.top_k]
    digest = hashlib.sha256((str(Path(name).resolve()) + json.dumps(content)).encode()).hexdigest()
    return root / f"{Path(name).name}-{digest[:12]}"


def _loss(inputs: Inputs, folder: Path, teachers: Sequence[TeacherPredictions]) -> Loss:
    """The text's loss and that of the fused targets, which are made here where they are not there yet."""
    config, size = inputs.config, vocabulary(inputs.student.model)
    hybrid = config.divergence == HYBRID
    k = min(size, config.top_k if config.target.fusion == "mince" else config.top_k * len(teachers))
    header = {
        "teachers": {each.name: each.store.header for each in teachers},
        "target": asdict(config.target),
        "matching": {**asdict(config.matching), "by_rank": hybrid},
        "windows": inputs.tokenized.windows.fingerprint(),
        "k": k,
        "vocabulary": size,
    }
    store = Store(folder / TARGETS, inputs.tokenized.windows, header)
    targets = FusedTargets(inputs.tokenized, teachers, config.target, size, group_facts if hybrid else None)
    with progress_bar("fusing") as progress:
        fill(store, targets, progress)
    if hybrid:
        return hybrid_loss(store, match_tokens(teachers, size), config.text_share, config.temperature)
    return distillation(read_from(store), config.text_share, config.temperature, config.divergence)


# The student ----------------------------------------------------------------------------------------------------------


def _train(inputs: Inputs, folder: Path, teachers: Sequence[TeacherPredictions]) -> list[dict[str, Any]]:
    """Train, from wherever an earlier run stopped; the loss curve."""
    loss, student, windows = _loss(inputs, folder, teachers), inputs.student.anatomy, inputs.tokenized.windows
    header = {
        "teachers": [each.name for each in teachers],
        "texts": windows.fingerprint(),
        "options": {name: value for name, value in flat(inputs.config).items() if name not in UNRELATED},
        "training": asdict(replace(inputs.plan, save_minutes=0)),
    }
    with trainable(student, inputs.lora, inputs.config.seed) as wrapper, progress_bar("training") as progress:
        if processes.is_first():
            announce(inputs, loss)
        how = inputs.plan, folder / STATES, header, inputs.look, progress, inputs.sharded
        lines = train(student, loss, windows, *how)
        if wrapper is not None and not inputs.sharded:
            merge(wrapper)
    return lines


def _whole_again(inputs: Inputs, folder: Path) -> Inputs:
    """The student read again, with what was trained in it: that which was trained is shared out."""
    inputs = replace(inputs, student=inputs.reread())
    with trainable(inputs.student.anatomy, inputs.lora, inputs.config.seed) as wrapper:
        read_trained(folder / STATES, inputs.student.anatomy)
        if wrapper is not None:
            merge(wrapper)
    return inputs


def _describe(inputs: Inputs, digest: str, folder: Path, results: FuseResults) -> None:
    """Write the record, the card and the page."""
    windows, teachers = inputs.tokenized.windows, as_recorded(inputs.config.teachers)
    texts = {"windows": len(windows), "tokens": windows.tokens, "sha256": windows.fingerprint()}
    known = {
        "model": {"name": inputs.student.name, "weights": digest},
        "texts": {**texts, **_left_out(inputs)},
        **{f"teacher {number}": {"name": str(name)} for number, name in enumerate(teachers, 1)},
    }
    record = Record("fuse", _record_options(inputs), known, inputs.config.seed, versions(), results.to_record())
    write_result(folder, record, results)


def _left_out(inputs: Inputs) -> dict[str, Any]:
    """What became of rows that were not taken as they stand."""
    facts = {
        "system in the first turn": inputs.moved,
        "left out": dict(inputs.dropped),
        "held out, left out": dict(inputs.heldout_dropped),
    }
    return {name: value for name, value in facts.items() if value}


def _record_options(inputs: Inputs) -> dict[str, Any]:
    """What was asked for, and the plan that was made of it."""
    return flat(inputs.config) | asdict(inputs.plan)
