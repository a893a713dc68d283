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

import torch

from remodeler.alignment.config import (
    ALPHA,
    BATCH_SIZE,
    EPOCHS,
    FULL_RATE,
    LORA_RATE,
    RANK,
    SCHEDULE,
    WARMUP,
    TrainingConfig,
)
from remodeler.alignment.data.examples import TokenRow, row_windows, token_weights, weighted_loss
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.errors import option, quantity
from remodeler.reporting.figures import short
from remodeler.runs import processes
from remodeler.runs.folders import partial
from remodeler.runs.progress import duration, progress_bar
from remodeler.runs.records import command_line, disk_errors
from remodeler.training.adapters import merge
from remodeler.training.loop import step_seconds, train
from remodeler.training.lora import Lora
from remodeler.training.model import trainable, training_precision, write_trained
from remodeler.training.plan import Training
from remodeler.training.state import CURVE_FILE, STATES

logger = logging.getLogger(__name__)

MODEL = "model"
"""Folder of a phase that is done."""
HELD_OUT_ROWS = 32
"""Held-out rows that the loss curve is measured on."""
REMEDY = f"{option('micro_batch_size', 1)} or {option('adapters', True)}"
"""Options that take less memory."""


@dataclass(frozen=True)
class TrainingSet:
    """Rows to learn from, and those that the loss curve is measured on."""

    rows: Sequence[TokenRow]
    heldout: Sequence[TokenRow] = ()
    label_weight: float = 1.0


def adapters_of(config: TrainingConfig) -> Lora | None:
    """The adapters that are trained; None where all parameters are."""
    given = config.lora
    return None if config.everything else Lora(given.rank or RANK, given.alpha or ALPHA, given.dropout or 0.0)


def plan_training(config: TrainingConfig, rows: int, device: torch.device) -> Training:
    """The training of a phase over so many rows."""
    pace, memory = config.optimization, config.memory
    batch = min(pace.train_batch_size or BATCH_SIZE, rows)
    steps = pace.steps or max(1, round((pace.epochs or EPOCHS) * rows / batch))
    precision: Any = training_precision(memory.precision, device)
    return Training(
        steps,
        batch,
        memory.micro_batch_size,
        learning_rate=pace.learning_rate or (FULL_RATE if config.everything else LORA_RATE),
        schedule=pace.schedule or SCHEDULE,
        warmup=round((WARMUP if pace.warmup is None else pace.warmup) * steps),
        precision=precision,
        seed=config.seed,
        save_minutes=memory.save_minutes,
        checkpointing=memory.checkpointing,
    )


def train_phase(
    start: Callable[[], Checkpoint], data: TrainingSet, config: TrainingConfig, folder: Path, title: str
) -> Path:
    """Train a model on rows, write it and read it back.

    Args:
        start: loads the model, if it has to be trained.
        data: the rows.
        config: how.
        folder: of this phase, from which an earlier run is resumed.
        title: of the progress bar.

    Returns:
        The folder of the trained model, the same in all processes.
    """
    if processes.from_first((folder / MODEL).is_dir() if processes.is_first() else None):
        return folder / MODEL
    student = start()
    _train(student, data, config, folder, title)
    processes.first_does(lambda: _write(student, folder))
    return folder / MODEL


def provenance(work: Path) -> dict[str, Any]:
    """Facts on record about a model that phases trained: how it is loaded, and the command that made it."""
    form = "packed" if (work / "packed.py").exists() else "stock"
    loading = {"form": form, "auto_class": "AutoModelForCausalLM", "pipeline_tag": "text-generation"}
    return loading | {"command": command_line()}


def preview_phase(student: Checkpoint, data: TrainingSet, config: TrainingConfig, title: str) -> None:
    """Say how much a phase would train and about how long it would take; nothing is changed."""
    windows, weights = row_windows(student, data.rows), token_weights(data.rows, data.label_weight)
    plan = plan_training(config, len(data.rows), student.model.device)
    with trainable(student.anatomy, adapters_of(config), config.seed):
        seconds = step_seconds(student.anatomy, weighted_loss(weights), windows, plan)
        _announce(student, data, plan, title, seconds)


def _train(student: Checkpoint, data: TrainingSet, config: TrainingConfig, folder: Path, title: str) -> None:
    windows, loss = row_windows(student, data.rows), weighted_loss(token_weights(data.rows, data.label_weight))
    heldout = row_windows(student, data.heldout[:HELD_OUT_ROWS]) if data.heldout else None
    plan, lora = plan_training(config, len(data.rows), student.model.device), adapters_of(config)
    header = {
        "rows": windows.fingerprint(),
        "label_weight": data.label_weight,
        "start": fingerprint(student.model),
        "lora": asdict(lora) if lora else None,
        "training": asdict(replace(plan, save_minutes=0)),
    }
    with trainable(student.anatomy, lora, config.seed) as wrapper, progress_bar(title) as progress:
        if processes.is_first():
            _announce(student, data, plan, title, step_seconds(student.anatomy, loss, windows, plan))
        train(student.anatomy, loss, windows, plan, folder / STATES, header, heldout, progress)
        if wrapper is not None:
            merge(wrapper)


def _announce(student: Checkpoint, data: TrainingSet, plan: Training, title: str, seconds: float) -> None:
    parameters = sum(value.numel() for value in student.model.parameters() if value.requires_grad)
    logger.info(
        f"{title}: {quantity(len(data.rows), 'example')}, {quantity(plan.steps, 'step')} of {plan.batch}, "
        f"{short(parameters)} parameters trained, about {duration(seconds * plan.steps)}"
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
