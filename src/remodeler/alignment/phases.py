"""One phase of training: rows in, a model's folder out. A phase whose folder is there is never trained again.

The next phase starts from what was written and read back, also in a run that nobody killed: so both go on to the same
weights.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from remodeler.alignment.config import Course
from remodeler.alignment.data.examples import Row, weighted, weights, windows
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.report.figures import short
from remodeler.runs import processes
from remodeler.runs.folders import partial
from remodeler.runs.progress import duration, progress_bar
from remodeler.runs.records import command_line, disk_errors
from remodeler.training.adapters import merge
from remodeler.training.loop import step_seconds, train
from remodeler.training.model import trainable, write_trained
from remodeler.training.plan import Training
from remodeler.training.state import CURVE_FILE, STATES

logger = logging.getLogger(__name__)

MODEL = "model"
"""Folders of a phase: until it is done, and when it is."""
LOOK = 32
"""Held-out rows that the loss curve is measured on."""


@dataclass(frozen=True)
class Lesson:
    """What is learned, and what the loss curve looks at."""

    rows: Sequence[Row]
    heldout: Sequence[Row] = ()
    label_weight: float = 1.0


def phase(start: Callable[[], Checkpoint], lesson: Lesson, course: Course, folder: Path, title: str) -> Path:
    """Train a model on rows, write it and read it back.

    Args:
        start: loads the model, if it has to be trained.
        lesson: the rows.
        course: how.
        folder: of this phase; what an earlier run left there is taken up.
        title: of the progress bar.

    Returns:
        The folder of the trained model, the same in all processes.
    """
    if processes.shared((folder / MODEL).is_dir() if processes.first() else None):
        return folder / MODEL
    student = start()
    _train(student, lesson, course, folder, title)
    processes.first_does(lambda: _write(student, folder))
    return folder / MODEL


def provenance(work: Path) -> dict[str, Any]:
    """What a record says of any model that phases made: how it is loaded, and by which command it came."""
    form = "packed" if (work / "packed.py").exists() else "stock"
    loading = {"form": form, "auto_class": "AutoModelForCausalLM", "pipeline_tag": "text-generation"}
    return loading | {"command": command_line()}


def announce(student: Checkpoint, lesson: Lesson, course: Course, title: str) -> None:
    """Say how much a phase would train and about how long it would take; nothing is changed."""
    read, counts = windows(student, lesson.rows), weights(lesson.rows, lesson.label_weight)
    plan = course.plan(len(lesson.rows), student.model.device)
    with trainable(student.anatomy, course.lora, course.seed):
        _announce(student, lesson, plan, title, step_seconds(student.anatomy, weighted(counts), read, plan))


def _train(student: Checkpoint, lesson: Lesson, course: Course, folder: Path, title: str) -> None:
    read, counts = windows(student, lesson.rows), weights(lesson.rows, lesson.label_weight)
    look = windows(student, lesson.heldout[:LOOK]) if lesson.heldout else None
    plan = course.plan(len(lesson.rows), student.model.device)
    header = {
        "rows": read.fingerprint(),
        "label_weight": lesson.label_weight,
        "start": fingerprint(student.model),
        "lora": asdict(course.lora) if course.lora else None,
        "training": asdict(replace(plan, save_minutes=0)),
    }
    with trainable(student.anatomy, course.lora, course.seed) as wrapper, progress_bar(title) as progress:
        loss = weighted(counts)
        if processes.first():
            _announce(student, lesson, plan, title, step_seconds(student.anatomy, loss, read, plan))
        train(student.anatomy, loss, read, plan, folder / STATES, header, look, progress)
        if wrapper is not None:
            merge(wrapper)


def _announce(student: Checkpoint, lesson: Lesson, plan: Training, title: str, seconds: float) -> None:
    numbers = sum(value.numel() for value in student.model.parameters() if value.requires_grad)
    logger.info(
        f"{title}: {len(lesson.rows):,} examples, {plan.steps} steps of {plan.batch}, {short(numbers)} numbers change, "
        f"about {duration(seconds * plan.steps)}"
    )


def _write(student: Checkpoint, folder: Path) -> None:
    work = partial(folder / MODEL)
    with disk_errors(folder):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_trained(student, work)
        shutil.copyfile(folder / STATES / CURVE_FILE, folder / CURVE_FILE)
        work.rename(folder / MODEL)
        shutil.rmtree(folder / STATES)
