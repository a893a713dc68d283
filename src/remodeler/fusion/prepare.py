"""A fusion looked at and made ready: the student, the texts as it reads them, the plan of its training."""

from dataclasses import dataclass
from typing import Any

import torch

from remodeler.checkpoints import Checkpoint, load, look, pick_device, read_settings, read_tokenizer
from remodeler.console import duration, note
from remodeler.errors import InputError
from remodeler.evaluation import evaluation_texts
from remodeler.families import FAMILIES
from remodeler.fusion.corpus import Read, Rendered, conversations, pieces, read, rendered
from remodeler.fusion.wishes import Wish
from remodeler.logprobs import bits_per_byte, mean_nll, perplexity, vocabulary
from remodeler.losses import Loss
from remodeler.measurements import short
from remodeler.sizes import memory
from remodeler.sources import sample
from remodeler.texts import Windows
from remodeler.trainees import training_dtype, training_precision
from remodeler.training import step_seconds
from remodeler.training_plan import Training, refuse_pace

LENGTH = 1024
HELD_OUT = 256
"""Texts that a result is judged by."""
LOOK = 16
"""Windows of them that are looked at while training."""
DEFAULTS = {"learning_rate": 1e-5, "batch": 4, "schedule": "cosine", "weight_decay": 0.0}


@dataclass(frozen=True)
class Job:
    """Everything that does not need a teacher."""

    wish: Wish
    student: Checkpoint
    texts: list[Rendered]
    ours: Read
    """The texts as the student reads them."""
    heldout: Read | None
    plan: Training
    length: int
    device: torch.device

    @property
    def look(self) -> Windows | None:
        """Held-out windows for the loss curve."""
        return self.heldout.windows[:LOOK] if self.heldout else None

    def scores(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """A model's size, and its figures on held-out text: of responses only, where there are some."""
        figures = memory(checkpoint)
        if self.heldout:
            loss = mean_nll(checkpoint.anatomy, self.heldout.windows)
            figures["heldout_perplexity"] = perplexity(loss)
            figures["heldout_bits_per_byte"] = bits_per_byte(loss, self.heldout.windows)
        return figures

    def teacher(self, name: str) -> Checkpoint:
        """A teacher, loaded."""
        return _loaded(self.wish, name, training_dtype(self.wish.dtype, False, self.device), self.device)


def prepared(wish: Wish, device: str) -> Job:
    """Load the student and the texts; refuse what can't work."""
    place = pick_device(device)
    for name in wish.teachers:
        look(name, "causal")
    student = _loaded(wish, wish.student, training_dtype(wish.dtype, wish.lora is None, place), place)
    if student.anatomy.family.task != "causal":
        raise InputError(f"{wish.student} is no causal language model: only those can be fused")
    length = wish.length or min(LENGTH, student.context or LENGTH)
    texts, rest = _texts(wish, student, length)
    ours = read(texts, student.tokenizer, length, vocabulary(student.model))
    heldout = read(rest, student.tokenizer, length, vocabulary(student.model)) if rest else None
    return Job(wish, student, texts, ours, heldout, _plan(wish, len(texts), place), length, place)


def _loaded(wish: Wish, name: str, dtype: str, device: torch.device) -> Checkpoint:
    """A model; the family that was named is that of those which are in no row."""
    known = read_settings(name, None)["model_type"] in FAMILIES
    like = None if known else wish.family
    return load(name, dtype=dtype, device=str(device), family=like, trust_remote_code=wish.trust_remote_code)


def _texts(wish: Wish, student: Checkpoint, length: int) -> tuple[list[Rendered], list[Rendered]]:
    """What is learned from, and what is held out."""
    tokenizers = [student.tokenizer]
    tokenizers += [read_tokenizer(name, trust_remote_code=wish.trust_remote_code) for name in wish.teachers]
    talks = conversations(wish.texts, wish.samples)
    if talks is None:
        sampled = sample(wish.texts, wish.samples, wish.seed, training=True)
        rest = evaluation_texts(wish.heldout) if wish.heldout else sampled.heldout
        return pieces(sampled.calibration, tokenizers, length), pieces(rest[:HELD_OUT], tokenizers, length)
    order = torch.randperm(len(talks), generator=torch.Generator().manual_seed(wish.seed)).tolist()
    apart = 0 if wish.heldout or len(talks) < 2 else max(1, min(HELD_OUT, len(talks) // 10))
    chosen = [talks[place] for place in order[apart : apart + wish.samples]]
    others = conversations(wish.heldout, HELD_OUT) if wish.heldout else [talks[place] for place in order[:apart]]
    if others is None:
        raise InputError(f"--held-out {wish.heldout} holds no conversations, as --texts does: give some")
    made = [[rendered(talk, student.tokenizer) for talk in each] for each in (chosen, others[:HELD_OUT])]
    return made[0], made[1]


def _plan(wish: Wish, windows: int, device: torch.device) -> Training:
    given = {key: value for key, value in wish.run.items() if value is not None and key != "precision"}
    settings: dict[str, Any] = DEFAULTS | given
    share = settings.pop("warmup", 0.03)
    refuse_pace(wish.epochs, settings["batch"], share)
    steps = max(1, round(wish.epochs * windows / settings["batch"])) if wish.steps is None else wish.steps
    warmup = round(share * steps)
    precision: Any = training_precision(wish.run.get("precision"), device)
    order = settings.pop("order", wish.seed)
    return Training(steps, warmup=warmup, precision=precision, seed=order, **settings)


def announce(job: Job, loss: Loss) -> None:
    """Sizes, texts, steps, and about how long they take."""
    plan, windows = job.plan, job.ours.windows
    numbers = sum(value.numel() for value in job.student.model.parameters() if value.requires_grad)
    note(f"{job.student.name}: trains {short(numbers)} numbers, {len(job.wish.teachers)} teachers")
    note(
        f"{len(windows)} windows with {windows.tokens:,} tokens that count, {windows.bytes:,} bytes; "
        f"{len(job.heldout.windows) if job.heldout else 0} windows are held out"
    )
    note(f"{plan.steps} steps of {plan.batch} windows: {plan.steps * plan.batch / len(windows):.2g} epochs")
    seconds = step_seconds(job.student.anatomy, loss, windows, plan) * plan.steps
    note(f"training takes about {duration(seconds)}; asking every teacher, one pass over the texts each")
