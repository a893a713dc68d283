"""One phase of training: rows in, a model's folder out. A phase whose folder is there is never trained again.

The next phase starts from what was written and read back, also in a run that nobody killed: so both go on to the same
weights.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from remodeler.alignment.data.examples import Row, weighted, weights, windows
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.report.figures import short
from remodeler.runs import processes
from remodeler.runs.console import bar, duration, note
from remodeler.runs.folders import partial
from remodeler.runs.records import command_line, disk_errors
from remodeler.training.adapters import Lora, merge
from remodeler.training.loop import step_seconds, train
from remodeler.training.model import trainable, training_precision, write_trained
from remodeler.training.plan import Training, refuse_pace
from remodeler.training.state import CURVE_FILE, STATES

MODEL = "model"
"""Folders of a phase: until it is done, and when it is."""
FULL_RATE, LORA_RATE = 2e-5, 2e-4
LOOK = 32
"""Held-out rows that the loss curve is measured on."""
DEFAULTS: dict[str, Any] = {"batch": 32, "schedule": "cosine", "warmup": 0.03, "weight_decay": 0.0}


@dataclass(frozen=True)
class Course:
    """How a phase trains."""

    epochs: float = 2.0
    lora: Lora | None = None
    """None trains everything."""
    seed: int = 42
    run: Mapping[str, Any] = field(default_factory=dict)
    """``learning_rate``, ``batch``, ``schedule``, ``warmup``, ``micro``, ``precision``, ``checkpointing``, ..."""

    def plan(self, rows: int, device: Any) -> Training:
        """Its steps over so many rows."""
        rate = FULL_RATE if self.lora is None else LORA_RATE
        given = {name: value for name, value in self.run.items() if value is not None and name != "precision"}
        settings = DEFAULTS | {"learning_rate": rate} | given
        refuse_pace(self.epochs, settings["batch"], settings["warmup"])
        settings["batch"] = min(settings["batch"], rows)
        steps = max(1, round(self.epochs * rows / settings["batch"]))
        warmup = round(settings.pop("warmup") * steps)
        precision: Any = training_precision(self.run.get("precision"), device)
        return Training(steps, warmup=warmup, precision=precision, seed=self.seed, **settings)


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
    with trainable(student.anatomy, course.lora, course.seed) as wrapper, bar(title) as hear:
        loss = weighted(counts)
        if processes.first():
            _announce(student, lesson, plan, title, step_seconds(student.anatomy, loss, read, plan))
        train(student.anatomy, loss, read, plan, folder / STATES, header, look, hear)
        if wrapper is not None:
            merge(wrapper)


def _announce(student: Checkpoint, lesson: Lesson, plan: Training, title: str, seconds: float) -> None:
    numbers = sum(value.numel() for value in student.model.parameters() if value.requires_grad)
    note(
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
