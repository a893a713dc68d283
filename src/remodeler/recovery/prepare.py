"""What a recovery works with: models, texts and settings, loaded; and what can be said and refused before it trains."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from remodeler.checkpoint.load import Checkpoint, fingerprint, pick_device
from remodeler.checkpoint.sizes import memory
from remodeler.checkpoint.source import Source
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.evaluation.metrics import evaluation_texts, model_windows, text_scores
from remodeler.evaluation.texts import Text
from remodeler.recovery.config import Recipe, Wish
from remodeler.report.figures import short
from remodeler.runs.progress import duration, progress_bar
from remodeler.training.loop import step_seconds
from remodeler.training.losses import Loss, Teach, cross_entropy, distillation, teacher
from remodeler.training.model import training_dtype, training_precision
from remodeler.training.plan import Training
from remodeler.training.teacher_store import make, stored

logger = logging.getLogger(__name__)

Scores = dict[str, Any]

HELD_OUT = 256
"""Texts that a result is judged by, as many as the search's."""
LOOK = 16
"""Windows of them that are looked at while training."""


@dataclass(frozen=True)
class Job:
    """Everything loaded."""

    student: Checkpoint
    teacher: Checkpoint | None
    wish: Wish
    recipe: Recipe
    plan: Training
    windows: Windows
    heldout: list[str]
    source: str
    """Name of the texts."""
    length: int
    text: Text
    weights: str
    """Digest of the student's."""
    teach: Teach | None
    """What the teacher predicts, where it is asked."""
    trust: bool
    """Code that came with the model may run."""

    @property
    def loss(self) -> Loss:
        """What training minimises."""
        lesson = self.recipe.lesson
        if lesson is None or self.teach is None:
            return cross_entropy
        return distillation(self.teach, lesson.share, lesson.temperature)

    @property
    def look(self) -> Windows | None:
        """Held-out windows for the loss curve."""
        if not self.heldout:
            return None
        return model_windows(self.student, self.heldout, self.length, self.text.packing)[:LOOK]

    def scores(self, checkpoint: Checkpoint) -> Scores:
        """A model's size, and its figures on held-out text where there is enough of it."""
        figures = memory(checkpoint)
        if self.heldout:
            found = text_scores(checkpoint, self.heldout, self.length, self.text.packing)
            figures |= {f"heldout_{key}": found[key] for key in ("perplexity", "bits_per_byte")}
        return figures


def prepare(source: Source, text: Text, wish: Wish, dry: bool) -> Job:
    """Load what is needed; refuse what can't work. If ``dry``, no store of predictions is made."""
    recipe = wish.recipe()
    device = pick_device(source.device)
    student = _source(source, recipe, device).load()
    original = None
    if wish.teacher:
        dtype = training_dtype(source.dtype, False, device)
        original = replace(source, model=wish.teacher, revision=None, dtype=dtype).load()
        refuse_teacher(student, original)
    sampled = sample(text.texts, text.samples, text.seed, training=True)
    length = text.length or min(recipe.length, student.context or recipe.length)
    windows = model_windows(student, sampled.calibration, length, text.packing)
    given = {"seed": text.seed, **wish.run, "precision": training_precision(wish.run.get("precision"), device)}
    plan = recipe.training(
        len(windows), wish.steps, **{key: value for key, value in given.items() if value is not None}
    )
    heldout = _enough(student, wish, sampled.heldout, length, text)
    digest = fingerprint(student.model)
    teach = _teach(original, windows, recipe, None if dry else wish.store)
    name, trust = sampled.name, source.trust_remote_code
    return Job(student, original, wish, recipe, plan, windows, heldout, name, length, text, digest, teach, trust)


def _teach(original: Checkpoint | None, windows: Windows, recipe: Recipe, folder: Path | None) -> Teach | None:
    """A teacher that is asked on the fly, or whose predictions are in a folder; made now where they are not."""
    lesson = recipe.lesson
    if lesson is None or original is None:
        return None
    if folder is None:
        return teacher(original.anatomy, lesson.k, lesson.temperature)
    with progress_bar("asking the teacher") as progress:
        return stored(make(original.anatomy, fingerprint(original.model), windows, lesson.k, folder, progress))


def _enough(student: Checkpoint, wish: Wish, rest: list[str], length: int, text: Text) -> list[str]:
    """Texts to judge by; none where they are too short for a window."""
    if wish.heldout:
        texts = evaluation_texts(wish.heldout)[:HELD_OUT]
        model_windows(student, texts, length, text.packing)
        return texts
    try:
        model_windows(student, rest[:HELD_OUT], length, text.packing)
    except InputError as error:
        logger.warning(f"held-out perplexity is left out: {error}")
        return []
    return rest[:HELD_OUT]


def _source(source: Source, recipe: Recipe, device: torch.device) -> Source:
    return replace(source, dtype=training_dtype(source.dtype, recipe.lora is None, device))


def refuse_teacher(student: Checkpoint, original: Checkpoint) -> None:
    """Predictions can be compared only token by token."""
    if student.tokenizer.get_vocab() != original.tokenizer.get_vocab():
        raise InputError(
            f"{original.name} has another tokenizer than {student.name}: give the model that was pruned as --teacher"
        )
    sizes = [each.model.config.vocab_size for each in (student, original)]
    if sizes[0] != sizes[1] or student.anatomy.family.task != original.anatomy.family.task:
        raise InputError(
            f"{original.name} predicts {sizes[1]} tokens, {student.name} {sizes[0]}: give the model that was pruned "
            "as --teacher"
        )


def announce(job: Job) -> None:
    """Sizes, texts, steps, and about how long they take."""
    plan, windows, lora = job.plan, job.windows, job.recipe.lora
    sizes = {
        train: sum(p.numel() for p in job.student.model.parameters() if p.requires_grad == train)
        for train in (True, False)
    }
    whole = sizes[False] if lora else sum(sizes.values())
    how = f"adapters of rank {lora.rank}" if lora else "everything"
    per_step = plan.batch * windows.tokens / len(windows)
    logger.info(f"{job.student.name}: {short(whole)} parameters, in {job.student.model.dtype}".replace("torch.", ""))
    logger.info(
        f"{len(windows)} windows of {job.length} tokens from {job.source}; {len(job.heldout)} texts are held out"
    )
    logger.info(
        f"{plan.steps} steps of {plan.batch} windows: {plan.steps * plan.batch / len(windows):.2g} epochs, "
        f"{short(plan.steps * per_step)} tokens; trains {how}, {short(sizes[True])} numbers"
    )
    seconds = step_seconds(job.student.anatomy, job.loss, windows, plan) * plan.steps
    logger.info(f"takes about {duration(seconds)}, and measuring")
