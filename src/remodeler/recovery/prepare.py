"""What a recovery works with: models, texts and settings, loaded; and what can be said and refused before it trains."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from remodeler.checkpoint.config import ModelConfig
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.checkpoint.sizes import memory
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.errors import InputError, option, quantity
from remodeler.evaluation.metrics import evaluation_texts, model_windows, text_scores
from remodeler.model.logprobs import vocabulary
from remodeler.model.streaming import streamed_weights
from remodeler.recovery.config import RecoverConfig
from remodeler.recovery.methods import recipe_of
from remodeler.recovery.recipes import Recipe
from remodeler.reporting.figures import short
from remodeler.runs.progress import duration, progress_bar
from remodeler.training.loop import step_seconds
from remodeler.training.losses import Loss, Teach, cross_entropy, distillation, teacher
from remodeler.training.model import training_dtype, training_precision
from remodeler.training.plan import Training
from remodeler.training.sharding import refuse_sharding, wants_shards
from remodeler.training.teacher_store import make, read_from

logger = logging.getLogger(__name__)

Scores = dict[str, Any]

HELD_OUT = 256
"""Texts that a result is judged by, as many as the search's."""
LOOK = 16
"""Windows of them that are looked at while training."""


@dataclass(frozen=True)
class Inputs:
    """Everything that a recovery needs, loaded."""

    student: Checkpoint
    teacher: Checkpoint | None
    config: RecoverConfig
    recipe: Recipe
    plan: Training
    windows: Windows
    heldout: list[str]
    source: str
    """Name of the texts."""
    length: int
    weights: str
    """Digest of the student's."""
    teach: Teach | None
    """What the teacher predicts, where it is asked."""
    trust: bool
    """Code that came with the model may run."""
    sharded: bool
    """Whether its parameters are shared out among processes while it is trained."""
    reread: Callable[[], Checkpoint]
    """The student once more, as its files have it."""

    @property
    def loss(self) -> Loss:
        """What training minimises."""
        distill = self.recipe.distill
        if distill is None or self.teach is None:
            return cross_entropy
        return distillation(self.teach, distill.share, distill.temperature)

    @property
    def look(self) -> Windows | None:
        """Held-out windows for the loss curve."""
        if not self.heldout:
            return None
        return model_windows(self.student, self.heldout, self.length, self.config.texts.packing)[:LOOK]

    def scores(self, checkpoint: Checkpoint) -> Scores:
        """A model's size, and its figures on held-out text where there is enough of it."""
        figures = memory(checkpoint)
        if self.heldout:
            found = text_scores(checkpoint, self.heldout, self.length, self.config.texts.packing)
            figures |= {f"heldout_{key}": found[key] for key in ("perplexity", "bits_per_byte")}
        return figures


def prepare(config: RecoverConfig, device_name: str) -> Inputs:
    """Load what is needed; refuse what can't work. In a dry run, no store of predictions is made."""
    recipe, source, texts = recipe_of(config), config.source, config.texts
    device = pick_device(device_name)
    where = config.devices.where() or {"device": str(device)}
    reread = partial(_load_student, source, training_dtype(source.dtype, recipe.lora is None, device), where)
    student = reread()
    refuse_offloaded(student)
    original = None
    if config.teacher.teacher:
        dtype = training_dtype(source.dtype, False, device)
        original = source.load(config.teacher.teacher, dtype=dtype, **(config.devices.where_others() or where))
        refuse_teacher(student, original)
    sampled = sample(texts.texts, texts.samples, texts.seed, training=True)
    length = texts.length or min(recipe.length, student.context or recipe.length)
    windows = model_windows(student, sampled.calibration, length, texts.packing)
    plan, sharded = _plan(config, recipe, len(windows), device), wants_shards(config.sharding.fsdp)
    if sharded and not config.run.dry_run:
        refuse_sharding(plan.precision)
    store = None if config.run.dry_run else config.teacher.teacher_store
    return Inputs(
        student=student,
        teacher=original,
        config=config,
        recipe=recipe,
        plan=plan,
        windows=windows,
        heldout=_held_out(student, config, sampled.heldout, length),
        source=sampled.name,
        length=length,
        weights=fingerprint(student.model),
        teach=_teach(original, windows, recipe, store),
        trust=source.trust_remote_code,
        sharded=sharded,
        reread=reread,
    )


def _load_student(source: ModelConfig, dtype: str, where: dict[str, Any]) -> Checkpoint:
    """Load the model that is trained; one that is loaded already is read from its files, as training changes it."""
    if isinstance(model := source.model, Checkpoint):
        own = replace(source, family=model.like or source.family)
        return own.load(model.name, revision=model.revision, dtype=dtype, **where)
    return source.open(dtype=dtype, **where)


def refuse_offloaded(student: Checkpoint) -> None:
    """Weights that change must stay where they are computed with, and so must those that gradients go through."""
    if weights := streamed_weights(student.model):
        raise InputError(
            f"some layers of {student.name} are {weights.state}, and what is trained must lie on devices that compute: "
            f"{weights.remedy}"
        )


def _plan(config: RecoverConfig, recipe: Recipe, windows: int, device: torch.device) -> Training:
    memory = config.memory
    given: dict[str, Any] = {
        "micro": memory.micro_batch_size,
        "precision": training_precision(memory.precision, device),
        "checkpointing": memory.checkpointing,
        "evaluate_every": config.evaluate_every,
        "save_minutes": memory.save_minutes,
        "seed": config.texts.seed,
    }
    kept = {name: value for name, value in given.items() if value is not None}
    return recipe.training(windows, config.optimization.steps, **kept)


def _teach(original: Checkpoint | None, windows: Windows, recipe: Recipe, folder: Path | None) -> Teach | None:
    """A teacher that is asked on the fly, or whose predictions are in a folder; made now where they are not."""
    distill = recipe.distill
    if distill is None or original is None:
        return None
    if folder is None:
        return teacher(original.anatomy, distill.k, distill.temperature)
    with progress_bar("asking the teacher") as progress:
        return read_from(make(original.anatomy, fingerprint(original.model), windows, distill.k, folder, progress))


def _held_out(student: Checkpoint, config: RecoverConfig, rest: list[str], length: int) -> list[str]:
    """Texts to evaluate on; none where they are too short for a window."""
    packing = config.texts.packing
    if config.held_out:
        texts = evaluation_texts(config.held_out)[:HELD_OUT]
        model_windows(student, texts, length, packing)
        return texts
    try:
        model_windows(student, rest[:HELD_OUT], length, packing)
    except InputError as error:
        logger.warning(f"held-out perplexity is left out: {error}")
        return []
    return rest[:HELD_OUT]


def refuse_teacher(student: Checkpoint, original: Checkpoint) -> None:
    """Predictions can be compared only token by token."""
    if student.tokenizer.get_vocab() != original.tokenizer.get_vocab():
        raise InputError(
            f"{original.name} has another tokenizer than {student.name}: give the model that was pruned as "
            f"{option('teacher')}"
        )
    sizes = [vocabulary(each.model) for each in (student, original)]
    if sizes[0] != sizes[1] or student.anatomy.family.task != original.anatomy.family.task:
        raise InputError(
            f"{original.name} predicts {sizes[1]} tokens, {student.name} {sizes[0]}: give the model that was pruned "
            f"as {option('teacher')}"
        )


def announce(inputs: Inputs) -> None:
    """Sizes, texts, steps, and about how long they take."""
    plan, windows, lora = inputs.plan, inputs.windows, inputs.recipe.lora
    sizes = {
        train: sum(p.numel() for p in inputs.student.model.parameters() if p.requires_grad == train)
        for train in (True, False)
    }
    whole = sizes[False] if lora else sum(sizes.values())
    how = f"adapters of rank {lora.rank}" if lora else "everything"
    per_step = plan.batch * windows.tokens / len(windows)
    dtype = str(inputs.student.model.dtype).removeprefix("torch.")
    held_out = f"{quantity(len(inputs.heldout), 'text')} held out"
    logger.info(f"{inputs.student.name}: {short(whole)} parameters, in {dtype}")
    logger.info(f"{quantity(len(windows), 'window')} of {inputs.length} tokens from {inputs.source}; {held_out}")
    epochs = plan.steps * plan.batch / len(windows)
    logger.info(
        f"{quantity(plan.steps, 'step')} of {quantity(plan.batch, 'window')}: {epochs:.2g} epochs, "
        f"{short(plan.steps * per_step)} tokens; trains {how}, {short(sizes[True])} numbers"
    )
    seconds = step_seconds(inputs.student.anatomy, inputs.loss, windows, plan) * plan.steps
    logger.info(f"takes about {duration(seconds)}, and measuring")
