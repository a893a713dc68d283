"""Fuse from start to finish: ask every teacher, make one target of them, train the student, write it, measure it.

All is done in ``OUT.partial``, renamed to OUT at the end. What a kill leaves there is taken up by the same command:
shards of predictions, shards of targets, the training run.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from remodeler.checkpoint.load import fingerprint
from remodeler.checkpoint.sizes import announce_training_space, file_sizes
from remodeler.errors import InputError
from remodeler.fusion.config import HYBRID, Wish
from remodeler.fusion.hybrid import groups_of, hybrid, matches
from remodeler.fusion.prepare import Job, announce, prepared
from remodeler.fusion.results import FuseResults
from remodeler.fusion.targets import Fused, told
from remodeler.fusion.teacher_predictions import Voice
from remodeler.fusion.teachers import Ways, heard, itself
from remodeler.model.logprobs import vocabulary
from remodeler.model.minibatches import enough_memory
from remodeler.report.cliff import result_warning
from remodeler.report.page import write_result
from remodeler.runs import processes
from remodeler.runs.folders import clear, new_folder, partial, refuse_existing, tidy, whole
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, options_of, versions
from remodeler.training.adapters import merge
from remodeler.training.loop import train
from remodeler.training.losses import Loss, cross_entropy, distillation
from remodeler.training.model import trainable, write_trained
from remodeler.training.state import BEGUN, CURVE_FILE, STATES
from remodeler.training.teacher_store import Store, filled, stored

logger = logging.getLogger(__name__)

VOICES, TARGETS = "predictions", "targets"
"""Folders inside the result that hold the work until it is done, beside that of the training."""


def fuse_models(wish: Wish, out: Path, dry: bool = False) -> bool:
    """Train a student on a text and on what teachers predict in it; with ``dry`` only say what would be done.

    Returns:
        Whether this process wrote the folder: of several processes, the first does.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    refuse_existing(out)
    wish = wish.settled()
    with processes.group(wish.device) as device, enough_memory("--micro-batch 1, --checkpointing or --adapters"):
        job = prepared(wish, device)
        if processes.first():
            announce_training_space(out, file_sizes(job.student), wish.lora is None)
        if dry:
            with trainable(job.student.anatomy, wish.lora, wish.seed):
                announce(job, cross_entropy)
            return False
        done = processes.shared(whole(partial(out), BEGUN, _options(job, out)))
        if not processes.first():
            if not done:
                _trained(job, partial(out), _voices(job, partial(out)))
            return False
        with new_folder(out, keep=True) as work:
            if not done:
                _complete(job, work, out)
            tidy(work, BEGUN, STATES, VOICES, TARGETS)
    return True


def _complete(job: Job, work: Path, out: Path) -> None:
    """Ask, train, write the model, read it back, measure it, and describe it all."""
    clear(work, BEGUN, (STATES, VOICES, TARGETS))
    before, digest = job.scores(job.student), fingerprint(job.student.model)
    voices = _voices(job, work)
    by_voice = told(job.wish.rules, voices, job.ours)
    for name, figures in by_voice.items():
        shown = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in figures.items())
        logger.info(f"{name}: {shown}")
    lines = _trained(job, work, voices)
    shutil.copyfile(work / STATES / CURVE_FILE, work / CURVE_FILE)
    logger.info(f"{lines[-1]['step']} steps are done: writing, reading back, measuring")
    saved = write_trained(job.student, work)
    after = job.scores(saved.checkpoint)
    results = FuseResults(
        student=before,
        voices=by_voice,
        fused=after,
        form=saved.form,
        check=asdict(saved.check),
        warning=_warning(job, before, after),
        steps=job.plan.steps,
        seconds=lines[-1]["seconds"],
        command=command_line(),
    )
    _describe(job, results, digest, work, out)


def _warning(job: Job, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    """The warning that the result is of no use; None where it is usable, or no text was held out."""
    key = "heldout_perplexity"
    return result_warning(before[key], after[key], vocabulary(job.student.model), "held-out") if key in before else None


# The teachers ---------------------------------------------------------------------------------------------------------


def _voices(job: Job, work: Path) -> list[Voice]:
    """Everybody who is heard, one model in memory after the other."""
    wish, root = job.wish, job.wish.stores or work / VOICES
    ways = Ways(wish.align, wish.map, wish.parity, wish.inside, wish.divergence == HYBRID)
    voices = [itself(job.student, job.ours, wish.k, _store(job, root, wish.student))] if wish.itself else []
    for name in wish.teachers:
        teacher = job.teacher(name)
        if teacher.anatomy.family.task != "causal":
            raise InputError(f"{name} is no causal language model: only those can teach")
        folder = _store(job, root, name)
        voices.append(heard(job.student, job.ours, teacher, job.texts, job.length, wish.k, folder, ways))
    return voices


def _store(job: Job, root: Path, name: str) -> Path:
    """A folder that tells models and texts apart, so that one root serves many runs."""
    told = json.dumps([[each.text, each.spans] for each in job.texts] + [job.length, job.wish.k])
    digest = hashlib.sha256((str(Path(name).resolve()) + told).encode()).hexdigest()
    return root / f"{Path(name).name}-{digest[:12]}"


def _loss(job: Job, work: Path, voices: Sequence[Voice]) -> Loss:
    """The text's loss and that of the fused targets, which are made here where they are not there yet."""
    wish, size = job.wish, vocabulary(job.student.model)
    k = min(size, wish.k if wish.rules.fusion == "mince" else wish.k * len(voices))
    header = {
        "voices": {each.name: each.store.header for each in voices},
        "rules": asdict(wish.rules),
        "ways": [wish.align, wish.map, wish.parity, wish.inside, wish.divergence == HYBRID],
        "windows": job.ours.windows.fingerprint(),
        "k": k,
        "vocabulary": size,
    }
    store = Store(work / TARGETS, job.ours.windows, header)
    with progress_bar("fusing") as progress:
        filled(
            store, Fused(job.ours, voices, wish.rules, size, groups_of if wish.divergence == HYBRID else None), progress
        )
    if wish.divergence == HYBRID:
        return hybrid(store, matches(voices, size), wish.share, wish.temperature)
    return distillation(stored(store), wish.share, wish.temperature, wish.divergence)


# The student ----------------------------------------------------------------------------------------------------------


def _trained(job: Job, work: Path, voices: Sequence[Voice]) -> list[dict[str, Any]]:
    """Train, from wherever it stopped before; the loss curve."""
    wish = job.wish
    loss = _loss(job, work, voices)
    header = {
        "voices": [each.name for each in voices],
        "texts": job.ours.windows.fingerprint(),
        "wish": {key: value for key, value in options_of(wish).items() if key not in ("device", "stores")},
        "training": asdict(replace(job.plan, save_minutes=0)),
    }
    with trainable(job.student.anatomy, wish.lora, wish.seed) as wrapper, progress_bar("training") as progress:
        if processes.first():
            announce(job, loss)
        lines = train(job.student.anatomy, loss, job.ours.windows, job.plan, work / STATES, header, job.look, progress)
        if wrapper is not None:
            merge(wrapper)
    return lines


def _describe(job: Job, results: FuseResults, digest: str, work: Path, out: Path) -> None:
    """Write the record, the card and the page."""
    windows = job.ours.windows
    inputs = {
        "model": {"name": job.student.name, "weights": digest},
        "texts": {"windows": len(windows), "tokens": windows.tokens, "sha256": windows.fingerprint(), **_read(job)},
        **{f"teacher {number}": {"name": name} for number, name in enumerate(job.wish.teachers, 1)},
    }
    record = Record("fuse", _options(job, out), inputs, job.wish.seed, versions(), results.to_record())
    write_result(work, record, results)


def _read(job: Job) -> dict[str, Any]:
    """What became of rows that were not taken as they stand."""
    facts = {
        "system in the first turn": job.moved,
        "left out": dict(job.dropped),
        "held out, left out": dict(job.apart),
    }
    return {name: value for name, value in facts.items() if value}


def _options(job: Job, out: Path) -> dict[str, Any]:
    return options_of(job.wish) | asdict(job.plan) | {"out": str(out)}
