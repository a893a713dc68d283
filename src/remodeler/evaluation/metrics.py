"""What a checkpoint is worth: perplexity, multiple-choice tasks, speed, and the bytes of its weights and KV cache.

Perplexity follows the WikiText-2 convention: all texts joined, cut into independent windows, every token but the first
of a window scored. The same model has another perplexity at another window length, so compare only figures of one
length. Masked language models get a pseudo-perplexity, sequence-to-sequence models the perplexity of the second half of
a window given the first.

Speeds are medians and quartiles of repeated runs. Several checkpoints take turns, run by run, so that a drift of the
machine hits all alike.
"""

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch

from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.sizes import memory, random_ids
from remodeler.data.sources import NAMES, read_texts, sample
from remodeler.data.windows import Packing, Windows, mask_tokens, seq2seq, windows
from remodeler.errors import InputError
from remodeler.model.caches import given_cache, returned_cache
from remodeler.model.logprobs import bits_per_byte, mean_nll, perplexity
from remodeler.model.streaming import streamed_weights
from remodeler.model.tracing import same_inputs
from remodeler.runs.progress import progress_bar

logger = logging.getLogger(__name__)

Scores = dict[str, Any]
T = TypeVar("T")

LENGTH = 2048  # of a window, where the model can read that much
PROMPT, NEW, REPEATS = 128, 64, 5


def measure(
    checkpoints: Sequence[Checkpoint],
    texts: Sequence[str] = (),
    *,
    length: int | None = None,
    packing: Packing = "paper",
    tasks: Sequence[str | Path] = (),
    limit: int | None = None,
    speed: bool = True,
) -> list[Scores]:
    """Checkpoints side by side.

    Args:
        checkpoints: what to measure, each with its own tokenizer.
        texts: what perplexity is measured on; none is, where there are none.
        length: of the windows; by default 2,048 or the shortest context of the checkpoints.
        packing: how texts become windows.
        tasks: lm-eval's tasks by name, and local files of multiple-choice questions.
        limit: questions a task, from its start; all by default.
        speed: measure prefill and decoding speed too.

    Raises:
        InputError: before anything is measured, where a task or a length can't work.
    """
    length = min([*_contexts(checkpoints), LENGTH]) if length is None else length
    harness = _harness() if tasks else None
    for checkpoint in checkpoints:
        _check_context(checkpoint, length)
        if harness:
            harness.check(checkpoint, limit)
    opened = harness.open_tasks(tasks) if harness else {}
    scores: list[Scores] = [{"name": checkpoint.name} | memory(checkpoint) for checkpoint in checkpoints]
    for checkpoint, found in zip(checkpoints, scores, strict=True):
        found |= text_scores(checkpoint, texts, length, packing) if texts else {}
        found |= {"tasks": harness.task_scores(checkpoint, opened, limit)} if harness else {}
    if speed and (weights := next(filter(None, (streamed_weights(each.model) for each in checkpoints)), None)):
        logger.info(f"speed is left out: that of {weights.state} weights is that of their reading")
    elif speed:
        for found, speeds in zip(scores, compare_affordable_speed(checkpoints), strict=True):
            found |= speeds
    return scores


def _contexts(checkpoints: Iterable[Checkpoint]) -> list[int]:
    return [checkpoint.context for checkpoint in checkpoints if checkpoint.context]


def _harness() -> ModuleType:
    try:
        from remodeler.evaluation import tasks
    except ImportError as error:
        raise InputError(f"tasks need lm-eval ({error}): pip install 'remodeler[eval]'") from None
    return tasks


# ---- texts -----------------------------------------------------------------------------------------------------------


def evaluation_texts(source: str | Path, samples: int = 256, seed: int = 42) -> list[str]:
    """What to measure on: a file as a whole, or the held-out part of a data set (of WikiText-2, the whole test part).

    ``samples`` and ``seed`` draw from the other data sets as pruning does, which calibrates on none of these texts.
    """
    named = str(source) in NAMES or str(source).startswith("hf:")
    return sample(str(source), samples, seed).heldout if named else read_texts(source)


def text_scores(
    checkpoint: Checkpoint, texts: Sequence[str], length: int, packing: Packing = "paper", size: int | None = None
) -> Scores:
    """Perplexity and bits per byte; ``size`` is the number of windows in a batch.

    Bits per byte are None for other than causal models: a pseudo-likelihood encodes no text, half a window is not all.
    """
    chosen = model_windows(checkpoint, texts, length, packing)
    with progress_bar(f"perplexity of {checkpoint.name}") as progress:
        nll = mean_nll(checkpoint.anatomy, chosen, size, progress)
    known = checkpoint.anatomy.family.task == "causal" and chosen.bytes > 0
    bits = bits_per_byte(nll, chosen) if known else None
    scores = {"perplexity": perplexity(nll), "bits_per_byte": bits}
    return scores | {"tokens": chosen.tokens, "windows": len(chosen), "length": length}


def window_length(length: int | None, checkpoint: Checkpoint) -> int:
    """Tokens per window: as given, or 2,048, or what the model reads."""
    return min(LENGTH, checkpoint.context or LENGTH) if length is None else length


def model_windows(checkpoint: Checkpoint, texts: Sequence[str], length: int, packing: Packing = "paper") -> Windows:
    """Windows with the targets that a model of this kind is scored on."""
    _check_context(checkpoint, length)
    plain = windows(texts, checkpoint.tokenizer, length, packing)
    _check_ids(checkpoint, plain)
    task = checkpoint.anatomy.family.task
    if task == "masked":
        return _mask(checkpoint, plain)
    return seq2seq(plain, _start_id(checkpoint)) if task == "seq2seq" else plain


def _check_context(checkpoint: Checkpoint, length: int) -> None:
    if checkpoint.context and length > checkpoint.context:
        raise InputError(
            f"{length} tokens per window were given, {checkpoint.name} reads at most {checkpoint.context}: "
            "lower `length`"
        )


def _check_ids(checkpoint: Checkpoint, chosen: Windows) -> None:
    rows, highest = checkpoint.model.get_input_embeddings().weight.shape[0], int(chosen.ids.max())
    if highest >= rows:
        said = f"the tokenizer of {checkpoint.name} gives token {highest}, its model knows {rows}"
        raise InputError(f"{said}: get the right tokenizer, or, if tokens were added, resize_token_embeddings and save")


def _mask(checkpoint: Checkpoint, plain: Windows) -> Windows:
    tokenizer = checkpoint.tokenizer
    if tokenizer.mask_token_id is None:
        raise InputError(f"the tokenizer of {checkpoint.name} has no mask token, its model needs one: add it")
    unknown = tokenizer.unk_token_id  # stands for text, unlike the other special tokens
    return mask_tokens(plain, tokenizer.mask_token_id, special_ids={*tokenizer.all_special_ids} - {unknown})


def _start_id(checkpoint: Checkpoint) -> int:
    """The token that the decoder starts from, wherever this model says it."""
    config, generation = checkpoint.model.config, checkpoint.model.generation_config
    named = [getattr(each, "decoder_start_token_id", None) for each in (config, generation)]
    return int(next(each for each in [*named, config.pad_token_id, 0] if each is not None))


# ---- speed -----------------------------------------------------------------------------------------------------------


def generation_speed(
    checkpoint: Checkpoint, prompt: int = PROMPT, new: int = NEW, repeats: int = REPEATS, batch: int = 1
) -> Scores:
    """Tokens a second of one checkpoint: see :func:`compare_speed`."""
    return compare_speed([checkpoint], prompt, new, repeats, batch)[0]


@torch.no_grad()
def compare_speed(
    checkpoints: Sequence[Checkpoint], prompt: int = PROMPT, new: int = NEW, repeats: int = REPEATS, batch: int = 1
) -> list[Scores]:
    """Tokens a second: ``prefill`` is one pass over the prompt, ``decode`` one token after the other with the KV cache.

    The model is called directly, so the cost of ``generate()`` is left out. Models that don't decode with a cache have
    ``prefill`` only. Every checkpoint warms up first, then they take turns.
    """
    for checkpoint in checkpoints:
        _check_speed(checkpoint, prompt, new, repeats, batch)
        _run(checkpoint, prompt, new, batch)
    rounds = [[_run(checkpoint, prompt, new, batch) for checkpoint in checkpoints] for _ in range(repeats)]
    tokens = {"prefill": prompt * batch, "decode": new * batch}
    return [
        {kind: _spread([tokens[kind] / run[kind] for run in runs], tokens[kind]) for kind in runs[0]}
        for runs in zip(*rounds, strict=True)
    ]


def _check_speed(checkpoint: Checkpoint, prompt: int, new: int, repeats: int, batch: int) -> None:
    if min(prompt, new, repeats, batch) < 1:
        given = f"prompt {prompt}, new {new}, repeats {repeats}, batch {batch}"
        raise InputError(f"{given} were asked for a speed measurement: each must be at least 1")
    if checkpoint.context and prompt + new > checkpoint.context:
        raise InputError(
            f"{prompt} + {new} tokens were given, {checkpoint.name} reads at most {checkpoint.context}: ask for fewer"
        )


def compare_affordable_speed(checkpoints: Sequence[Checkpoint]) -> list[Scores]:
    """Speeds at the usual lengths, or at what the shortest context allows."""
    return compare_speed(checkpoints, *_affordable(checkpoints))


def _affordable(checkpoints: Sequence[Checkpoint]) -> tuple[int, int]:
    """The usual prompt and number of new tokens, or two thirds and one third of a context too short for them."""
    context = min([*_contexts(checkpoints), PROMPT + NEW])
    new = context * NEW // (PROMPT + NEW)
    return context - new, new


def _run(checkpoint: Checkpoint, prompt: int, new: int, batch: int) -> dict[str, float]:
    """Seconds of one run."""
    model, ids = checkpoint.model, random_ids(checkpoint, batch, prompt)
    if checkpoint.anatomy.family.task != "causal":
        inputs = same_inputs(checkpoint.anatomy.family, ids)
        return {"prefill": _time(ids.device, lambda: model(**inputs))[0]}
    last = _last_logits(model)
    prefill, outputs = _time(ids.device, lambda: model(ids, use_cache=True, **last))
    decode, _ = _time(ids.device, lambda: _decode(model, outputs, ids.shape[1], new))
    return {"prefill": prefill, "decode": decode}


def _decode(model: Any, outputs: Any, read: int, steps: int) -> None:
    """Greedy decoding: each step waits for the token before it, as in use."""
    for step in range(steps):
        token = outputs.logits[:, -1:].argmax(-1)  # [batch, 1]
        outputs = model(token, **given_cache(model, returned_cache(outputs), read + step, token))


def _last_logits(model: Any) -> dict[str, int]:
    """Generation needs the logits of the last position only; most models can leave out the others."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def _time(device: torch.device, action: Callable[[], T]) -> tuple[float, T]:
    _synchronize(device)
    start = time.perf_counter()
    value = action()
    _synchronize(device)
    return time.perf_counter() - start, value


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _spread(speeds: Sequence[float], tokens: int) -> dict[str, float]:
    low, median, high = (float(value) for value in np.quantile(speeds, [0.25, 0.5, 0.75]))
    return {"median": median, "low": low, "high": high, "repeats": len(speeds), "tokens": tokens}
