"""The inputs of a fusion: the student, the texts as it reads them, the plan of its training."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.load import Checkpoint, load, look, read_settings, read_tokenizer
from remodeler.checkpoint.sizes import memory
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.errors import InputError, LeftOut, count_reasons, option, quantity
from remodeler.evaluation.metrics import evaluation_texts
from remodeler.fusion.config import FuseConfig
from remodeler.fusion.corpus import (
    Conversation,
    RenderedText,
    TokenizedTexts,
    explain_empty,
    read_conversations,
    render_conversations,
    split_texts,
    tokenize_texts,
)
from remodeler.model.families import FAMILIES
from remodeler.model.logprobs import bits_per_byte, mean_nll, perplexity, vocabulary
from remodeler.reporting.figures import short
from remodeler.runs.options import as_recorded
from remodeler.runs.progress import duration
from remodeler.training.loop import step_seconds
from remodeler.training.lora import Lora
from remodeler.training.losses import Loss
from remodeler.training.model import training_dtype, training_precision
from remodeler.training.plan import Training
from remodeler.training.sharding import refuse_sharding, wants_shards

logger = logging.getLogger(__name__)

LENGTH = 1024
HELD_OUT = 256
"""Texts that a result is evaluated on."""
LOOK = 16
"""Windows of them that are evaluated while training."""


@dataclass(frozen=True)
class Inputs:
    """Everything that does not need a teacher."""

    config: FuseConfig
    """With presets applied."""
    student: Checkpoint
    texts: list[RenderedText]
    tokenized: TokenizedTexts
    """The texts as the student reads them."""
    heldout: TokenizedTexts | None
    plan: Training
    length: int
    device: torch.device
    dropped: LeftOut
    """Rows that were left out, by reason."""
    heldout_dropped: LeftOut
    """The same for a file of its own that is held out."""
    moved: int
    """Conversations whose system prompt stands in the user's first turn."""
    sharded: bool
    """Whether the student's parameters are shared out among processes while it is trained."""
    reread: Callable[[], Checkpoint]
    """The student once more, as its files have it."""

    @property
    def lora(self) -> Lora | None:
        """Settings of the adapters; None where all parameters are trained."""
        given = self.config.lora
        return None if given is None else Lora(**given)

    @property
    def look(self) -> Windows | None:
        """Held-out windows for the loss curve."""
        return self.heldout.windows[:LOOK] if self.heldout else None

    def scores(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """A model's size, and its figures on held-out text: on responses only, where there are some."""
        figures = memory(checkpoint)
        if self.heldout:
            loss = mean_nll(checkpoint.anatomy, self.heldout.windows)
            figures["heldout_perplexity"] = perplexity(loss)
            figures["heldout_bits_per_byte"] = bits_per_byte(loss, self.heldout.windows)
        return figures

    def load_teacher(self, model: ModelLike) -> Checkpoint:
        """Load a teacher; one that is loaded already is used as it is."""
        dtype = training_dtype(self.config.loading.dtype, False, self.device)
        teacher = model if isinstance(model, Checkpoint) else _load(self.config, model, dtype, self.device)
        if teacher.anatomy.family.task != "causal":
            raise InputError(f"{teacher.name} is not a causal language model: only those can teach")
        return teacher


def prepare(config: FuseConfig, device: str) -> Inputs:
    """Load the student and the texts; refuse what can't work. ``config`` has its presets applied."""
    place = pick_device(device)
    for each in config.teachers:
        if not isinstance(each, Checkpoint):
            look(str(each), "causal")
    dtype = training_dtype(config.loading.dtype, config.lora is None, place)
    reread = partial(_load, config, config.student, dtype, place)
    student = reread()
    if student.anatomy.family.task != "causal":
        raise InputError(f"{student.name} is not a causal language model: only those can be fused")
    length = config.length or min(LENGTH, student.context or LENGTH)
    found = _texts(config, student, length)
    texts, tokenized = _scored_texts(found.learned, student, length, found.dropped)
    size = vocabulary(student.model)
    heldout = tokenize_texts(found.heldout, student.tokenizer, length, size) if found.heldout else None
    moved = sum(each.moved for each in (*texts, *found.heldout))
    plan = plan_training(config, len(texts), place)
    sharded = wants_shards(config.sharding.fsdp)
    if sharded and not config.run.dry_run:
        refuse_sharding(plan.precision)
    read = student, texts, tokenized, heldout, plan, length, place, found.dropped, found.heldout_dropped, moved
    return Inputs(config, *read, sharded, reread)


def _load(config: FuseConfig, model: ModelLike, dtype: str, device: torch.device) -> Checkpoint:
    """Load a model from its files; the family that is named is that of those whose type is not known.

    A student that is loaded already is loaded again, since training would change it.
    """
    name, revision = str(as_recorded(model)), getattr(model, "revision", None)
    known = read_settings(name, revision)["model_type"] in FAMILIES
    family = None if known else getattr(model, "like", None) or config.loading.family
    code = config.loading.trust_remote_code
    return load(name, revision=revision, dtype=dtype, device=str(device), family=family, trust_remote_code=code)


# Texts ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Texts to train on, those held out, and what was left out of the rows."""

    learned: list[RenderedText]
    heldout: list[RenderedText]
    dropped: LeftOut
    heldout_dropped: LeftOut
    """The same for a file of its own that is held out."""


def _texts(config: FuseConfig, student: Checkpoint, length: int) -> Texts:
    """Texts, or conversations as the student's chat template writes them."""
    dropped = LeftOut()
    conversations = read_conversations(config.texts, config.samples, dropped)
    if conversations is not None:
        return _rendered_conversations(config, student, conversations, dropped)
    tokenizers = [student.tokenizer, *(_tokenizer(config, each) for each in config.teachers)]
    sampled = sample(config.texts, config.samples, config.seed, training=True)
    rest = evaluation_texts(config.held_out) if config.held_out else sampled.heldout
    learned, heldout = (split_texts(texts, tokenizers, length) for texts in (sampled.calibration, rest[:HELD_OUT]))
    return Texts(learned, heldout, dropped, LeftOut())


def _tokenizer(config: FuseConfig, teacher: ModelLike) -> PreTrainedTokenizerBase:
    if isinstance(teacher, Checkpoint):
        return teacher.tokenizer
    return read_tokenizer(str(teacher), trust_remote_code=config.loading.trust_remote_code)


def _rendered_conversations(
    config: FuseConfig, student: Checkpoint, conversations: Sequence[Conversation], dropped: LeftOut
) -> Texts:
    """Conversations in an order that the seed decides; the first of them are held out where no others are given."""
    order = torch.randperm(len(conversations), generator=torch.Generator().manual_seed(config.seed)).tolist()
    held_out = 0 if config.held_out or len(conversations) < 2 else max(1, min(HELD_OUT, len(conversations) // 10))
    rendered = render_conversations((conversations[place] for place in order), student.tokenizer, dropped)
    rest = list(islice(rendered, held_out))
    learned = list(islice(rendered, config.samples))
    if not learned:
        learned, rest = rest, []
    if not learned:
        raise InputError(explain_empty(config.texts, dropped))
    others = LeftOut()
    return Texts(learned, _held_out_file(config, student, others) if config.held_out else rest, dropped, others)


def _held_out_file(config: FuseConfig, student: Checkpoint, dropped: LeftOut) -> list[RenderedText]:
    """Conversations of another file, to evaluate on."""
    source = str(config.held_out)
    conversations = read_conversations(source, HELD_OUT, dropped)
    if conversations is None:
        raise InputError(f"{option('held_out', source)} holds no conversations, as {option('texts')} does: give some")
    found = list(islice(render_conversations(conversations, student.tokenizer, dropped), HELD_OUT))
    if not found:
        raise InputError(explain_empty(source, dropped))
    return found


def _scored_texts(
    texts: list[RenderedText], student: Checkpoint, length: int, dropped: LeftOut
) -> tuple[list[RenderedText], TokenizedTexts]:
    """The texts of which something is scored within the length, and how the student reads them."""
    tokenized = tokenize_texts(texts, student.tokenizer, length, vocabulary(student.model))
    kept = [text for text, places in zip(texts, tokenized.positions, strict=True) if len(places)]
    if len(kept) == len(texts):
        return texts, tokenized
    dropped[f"no answer within {length} tokens"] += len(texts) - len(kept)
    return kept, tokenize_texts(kept, student.tokenizer, length, vocabulary(student.model))


# Training -------------------------------------------------------------------------------------------------------------


def plan_training(config: FuseConfig, windows: int, device: torch.device) -> Training:
    """How the student is trained on so many windows."""
    pace, memory_config = config.pace, config.memory
    batch = pace["train_batch_size"]
    steps = config.optimization.steps or max(1, round(pace["epochs"] * windows / batch))
    precision: Any = training_precision(memory_config.precision, device)
    return Training(
        steps,
        batch=batch,
        micro=memory_config.micro_batch_size,
        learning_rate=pace["learning_rate"],
        schedule=pace["schedule"],
        warmup=round(pace["warmup"] * steps),
        weight_decay=0.0,
        precision=precision,
        seed=config.seed if config.order_seed is None else config.order_seed,
        evaluate_every=config.evaluate_every,
        save_minutes=memory_config.save_minutes,
        checkpointing=memory_config.checkpointing,
    )


def announce(inputs: Inputs, loss: Loss) -> None:
    """Sizes, texts, steps, and about how long they take."""
    config, plan, windows = inputs.config, inputs.plan, inputs.tokenized.windows
    numbers = sum(value.numel() for value in inputs.student.model.parameters() if value.requires_grad)
    logger.info(f"{inputs.student.name}: trains {short(numbers)} parameters, {len(config.teachers)} teachers")
    held_out = len(inputs.heldout.windows) if inputs.heldout else 0
    logger.info(
        f"{len(windows)} windows with {windows.tokens:,} scored tokens, {windows.bytes:,} bytes; "
        f"{held_out} windows are held out"
    )
    named = ((config.texts, inputs.dropped), (option("held_out", config.held_out), inputs.heldout_dropped))
    for name, dropped in named:
        if dropped:
            logger.warning(f"{name}: rows left out: {count_reasons(dropped)}")
    if inputs.moved:
        logger.info(
            f"system turns that the student's chat template does not take: {inputs.moved:,}; their texts stand at the "
            "beginning of the user's first turn"
        )
    epochs = plan.steps * plan.batch / len(windows)
    logger.info(f"{quantity(plan.steps, 'step')} of {quantity(plan.batch, 'window')}: {epochs:.2g} epochs")
    seconds = step_seconds(inputs.student.anatomy, loss, windows, plan) * plan.steps
    logger.info(f"training takes about {duration(seconds)}; predicting with each teacher, one pass over the texts")
