"""Log-probabilities of texts and labels, in batches of similar lengths; the same wherever a run was resumed."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remodeler.alignment.data.examples import TokenRow, row_windows
from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError, option
from remodeler.model.logprobs import scored_logits, window_nll
from remodeler.model.minibatches import fitting_tokens, to_batch, widest
from remodeler.model.streaming import room
from remodeler.runs.job import enough_memory
from remodeler.runs.progress import Progress, silent
from remodeler.runs.runlog import RunLog

CHUNK = 64
"""Items that are worked on, and written, together: what a kill costs at most."""
CACHED_TOKENS = 2048
"""Tokens per batch on a CPU."""


def map_resumably(
    path: Path,
    header: dict[str, Any],
    items: Sequence[Any],
    function: Callable[[Sequence[Any]], Sequence[dict[str, Any]]],
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Map a function over chunks of items, a JSON line per item; lines that are on disk are not made again.

    Chunks are the same whenever a run was killed, so that the lines do not depend on it.

    Raises:
        InputError: when the file is of another run.
    """
    log = RunLog(path)
    found: list[dict[str, Any]] = log.resume(header)
    while len(found) < len(items):
        start = len(found) // CHUNK * CHUNK
        new = list(function(items[start : start + CHUNK]))[len(found) - start :]
        log.append(new)
        found += new
        progress(len(found) / len(items), f"{len(found):,} of {len(items):,}")
    return found


def batch_places(checkpoint: Checkpoint, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of rows that go together, the longest first, of as many tokens as a batch may have."""
    device = checkpoint.model.device
    most = CACHED_TOKENS
    if device.type != "cpu":
        most = fitting_tokens(room(device), widest(checkpoint.anatomy), checkpoint.model.dtype.itemsize)
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    while order:
        count = max(1, most // lengths[order[0]])
        yield order[:count]
        order = order[count:]


@torch.no_grad()
def mean_logprobs(checkpoint: Checkpoint, rows: Sequence[TokenRow]) -> list[float]:
    """Mean log-probability of the scored tokens of every row, in nats.

    Raises:
        InputError: where it is not a number.
    """
    found = [0.0] * len(rows)
    for places in batch_places(checkpoint, [len(row.ids) for row in rows]):
        chosen = [rows[place] for place in places]
        with enough_memory(option("device", "cpu")):
            sums = window_nll(checkpoint.anatomy, to_batch(row_windows(checkpoint, chosen), checkpoint.model.device))
        for place, row, total in zip(places, chosen, sums.tolist(), strict=True):
            found[place] = -total / (len(row.ids) - row.start)
    if not all(map(math.isfinite, found)):
        raise InputError(f"{checkpoint.name} gives texts no finite probability: its weights are damaged")
    return found


@torch.no_grad()
def label_logprobs(
    checkpoint: Checkpoint, contexts: Sequence[Sequence[int]], marks: Sequence[tuple[int, ...]]
) -> Tensor:
    """Log-probabilities of labels, normalised over them: [contexts, labels] float32, on the CPU.

    A label's is the sum over its tokens (chain rule). The markers of a context are read in one batch; those that
    differ in their last token only share a row of it.

    Args:
        checkpoint: the reviser.
        contexts: token ids up to where a label comes.
        marks: token ids of every label, none of which begins another.
    """
    heads = list(dict.fromkeys(mark[:-1] for mark in marks))
    found = torch.empty(len(contexts), len(marks))
    longest = max(map(len, heads))
    for places in batch_places(checkpoint, [len(heads) * (len(each) + longest) for each in contexts]):
        rows = [
            TokenRow((*contexts[place], *head, marks[_member(head, marks)][-1]), len(contexts[place]))
            for place in places
            for head in heads
        ]
        steps = iter(_distributions(checkpoint, rows))
        for place in places:
            read = {head: next(steps) for head in heads}
            found[place] = torch.stack([_chained(read[mark[:-1]], mark) for mark in marks])
    return found.log_softmax(1)


def _member(head: tuple[int, ...], marks: Sequence[tuple[int, ...]]) -> int:
    return next(place for place, mark in enumerate(marks) if mark[:-1] == head)


def _distributions(checkpoint: Checkpoint, rows: Sequence[TokenRow]) -> list[Tensor]:
    """Log-probabilities of every token at the scored positions: of each row [scored, vocabulary]."""
    with enough_memory(option("device", "cpu")):
        batch = to_batch(row_windows(checkpoint, rows), checkpoint.model.device)
        parts = [logits.log_softmax(1) for logits, _ in scored_logits(checkpoint.anatomy, batch)]
    return list(torch.cat(parts).cpu().split([len(row.ids) - row.start for row in rows]))


def _chained(steps: Tensor, mark: tuple[int, ...]) -> Tensor:
    return steps.gather(1, torch.tensor(mark)[:, None]).sum()
