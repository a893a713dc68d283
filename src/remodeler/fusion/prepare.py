"""A fusion looked at and made ready: the student, the texts as it reads them, the plan of its training."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from remodeler.checkpoint.load import Checkpoint, load, look, pick_device, read_settings, read_tokenizer
from remodeler.checkpoint.sizes import memory
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.errors import InputError, LeftOut, counted
from remodeler.evaluation.metrics import evaluation_texts
from remodeler.fusion.config import Wish
from remodeler.fusion.corpus import Conversation, Read, Rendered, all_rendered, conversations, none_left, pieces, read
from remodeler.model.families import FAMILIES
from remodeler.model.logprobs import bits_per_byte, mean_nll, perplexity, vocabulary
from remodeler.report.figures import short
from remodeler.runs.progress import duration
from remodeler.training.loop import step_seconds
from remodeler.training.losses import Loss
from remodeler.training.model import training_dtype, training_precision
from remodeler.training.plan import Training, refuse_pace

logger = logging.getLogger(__name__)

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
    dropped: LeftOut
    """Rows that were left out, by reason."""
    apart: LeftOut
    """Of a file of its own that is held out."""
    moved: int
    """Conversations whose system's text stands in the user's first turn."""

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
    found = _texts(wish, student, length)
    texts, ours = _counting(found.learned, student, length, found.dropped)
    heldout = read(found.heldout, student.tokenizer, length, vocabulary(student.model)) if found.heldout else None
    moved = sum(each.moved for each in (*texts, *found.heldout))
    plan = _plan(wish, len(texts), place)
    return Job(wish, student, texts, ours, heldout, plan, length, place, found.dropped, found.apart, moved)


def _loaded(wish: Wish, name: str, dtype: str, device: torch.device) -> Checkpoint:
    """A model; the family that was named is that of those which are in no row."""
    known = read_settings(name, None)["model_type"] in FAMILIES
    like = None if known else wish.family
    return load(name, dtype=dtype, device=str(device), family=like, trust_remote_code=wish.trust_remote_code)


@dataclass(frozen=True)
class Texts:
    """What is learned from, what is held out, and what of the rows was left out."""

    learned: list[Rendered]
    heldout: list[Rendered]
    dropped: LeftOut
    apart: LeftOut
    """Of a file of its own that is held out."""


def _texts(wish: Wish, student: Checkpoint, length: int) -> Texts:
    """Texts, or conversations as the student's chat template writes them."""
    dropped = LeftOut()
    talks = conversations(wish.texts, wish.samples, dropped)
    if talks is not None:
        return _conversations(wish, student, talks, dropped)
    tokenizers = [student.tokenizer]
    tokenizers += [read_tokenizer(name, trust_remote_code=wish.trust_remote_code) for name in wish.teachers]
    sampled = sample(wish.texts, wish.samples, wish.seed, training=True)
    rest = evaluation_texts(wish.heldout) if wish.heldout else sampled.heldout
    made = [pieces(texts, tokenizers, length) for texts in (sampled.calibration, rest[:HELD_OUT])]
    return Texts(made[0], made[1], dropped, LeftOut())


def _conversations(wish: Wish, student: Checkpoint, talks: Sequence[Conversation], dropped: LeftOut) -> Texts:
    """Conversations in an order that the seed decides; the first of them are held out where no others are given."""
    order = torch.randperm(len(talks), generator=torch.Generator().manual_seed(wish.seed)).tolist()
    apart = 0 if wish.heldout or len(talks) < 2 else max(1, min(HELD_OUT, len(talks) // 10))
    made = all_rendered((talks[place] for place in order), student.tokenizer, dropped)
    rest = list(islice(made, apart))
    chosen = list(islice(made, wish.samples))
    if not chosen:
        chosen, rest = rest, []
    if not chosen:
        raise InputError(none_left(wish.texts, dropped))
    others = LeftOut()
    return Texts(chosen, _others(wish, student, others) if wish.heldout else rest, dropped, others)


def _others(wish: Wish, student: Checkpoint, dropped: LeftOut) -> list[Rendered]:
    """Conversations of another file, to judge by."""
    others = conversations(str(wish.heldout), HELD_OUT, dropped)
    if others is None:
        raise InputError(f"--held-out {wish.heldout} holds no conversations, as --texts does: give some")
    found = list(islice(all_rendered(others, student.tokenizer, dropped), HELD_OUT))
    if not found:
        raise InputError(none_left(str(wish.heldout), dropped))
    return found


def _counting(texts: list[Rendered], student: Checkpoint, length: int, dropped: LeftOut) -> tuple[Any, Read]:
    """The texts of which something counts within the length, and how the student reads them."""
    read_all = read(texts, student.tokenizer, length, vocabulary(student.model))
    kept = [text for text, places in zip(texts, read_all.positions, strict=True) if len(places)]
    if len(kept) == len(texts):
        return texts, read_all
    dropped[f"no answer within {length} tokens"] += len(texts) - len(kept)
    return kept, read(kept, student.tokenizer, length, vocabulary(student.model))


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
    logger.info(f"{job.student.name}: trains {short(numbers)} numbers, {len(job.wish.teachers)} teachers")
    logger.info(
        f"{len(windows)} windows with {windows.tokens:,} tokens that count, {windows.bytes:,} bytes; "
        f"{len(job.heldout.windows) if job.heldout else 0} windows are held out"
    )
    for name, dropped in ((job.wish.texts, job.dropped), (f"--held-out {job.wish.heldout}", job.apart)):
        if dropped:
            logger.warning(f"{name}: rows left out: {counted(dropped)}")
    if job.moved:
        logger.info(
            f"system turns that the student's chat template does not take: {job.moved:,}; their texts stand at the "
            "beginning of the user's first turn"
        )
    logger.info(f"{plan.steps} steps of {plan.batch} windows: {plan.steps * plan.batch / len(windows):.2g} epochs")
    seconds = step_seconds(job.student.anatomy, loss, windows, plan) * plan.steps
    logger.info(f"training takes about {duration(seconds)}; asking every teacher, one pass over the texts each")
