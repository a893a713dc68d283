"""A written graph in its own runtime, where that is installed: does it go on with texts as torch does?

torch decodes greedily with the cache that transformers gives the model, a sliding one where it slides. The graph reads
the same prompts, then token by token what torch chose. Its own choice is noted at every step; where all are torch's,
the graph alone writes the same text.
"""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.stepwise import STEP_TOLERANCE
from remodeler.errors import InputError, one_line
from remodeler.exporting.agreement import Agreement
from remodeler.exporting.graph.tracing import call, exporters, no_past, silence
from remodeler.model.caches import returned_cache
from remodeler.model.logprobs import vocabulary

STEPS = 16
"""Tokens that are decoded behind each prompt."""
PROMPTS = (
    "Once upon a time, there was a little girl. She didn't like rain.",
    "1234567 + 89 =",
    "The",
)
BOUND = STEP_TOLERANCE[torch.float32]

Read = Callable[[Tensor, Tensor, Any], Any]
"""Tokens [batch, new], mask [batch, past + new] and a cache, to an output with logits and the longer cache."""
Batch = tuple[Tensor, Tensor]
"""Tokens and mask, [batch, length]; padded on the left."""


def batches(checkpoint: Checkpoint, together: bool) -> list[Batch]:
    """Each prompt alone; and all ``together``, padded."""
    most = max(1, min(64, (checkpoint.context or 80) - STEPS))
    texts = [checkpoint.tokenizer(text)["input_ids"][:most] or [0] for text in PROMPTS]
    ids = [torch.tensor(text) % vocabulary(checkpoint.model) for text in texts]
    alone = [(each[None], torch.ones_like(each)[None]) for each in ids]
    if not together:
        return alone
    longest = max(len(each) for each in ids)
    rows = [torch.cat([each.new_zeros(longest - len(each)), each]) for each in ids]
    masks = [torch.cat([each.new_zeros(longest - len(each)), torch.ones_like(each)]) for each in ids]
    return [*alone, (torch.stack(rows), torch.stack(masks))]


@torch.no_grad()
def decode(read: Read, batch: Batch, cache: Any, path: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Decode behind prompts.

    Args:
        read: the model.
        batch: the prompts.
        cache: an empty one.
        path: [batch, steps], tokens to go on with; by default those that are chosen.

    Returns:
        The likeliest token at every step [batch, steps], and the logits of all that was read [batch, read, vocabulary].
    """
    new, mask = batch
    logits, chosen = [], []
    for step in range(STEPS):
        found = read(new, mask, cache)
        cache = returned_cache(found)
        logits.append(found.logits.detach().clone())  # a runtime may write into the same memory again
        chosen.append(logits[-1][:, -1:].argmax(-1))
        new = chosen[-1] if path is None else path[:, step : step + 1]
        mask = torch.cat([mask, torch.ones_like(new)], 1)
    return torch.cat(chosen, 1), torch.cat(logits, 1)


def check(checkpoint: Checkpoint, folder: Path, runtime: str, together: bool = True) -> Agreement:
    """Hold a written folder against the model that it was made of.

    Args:
        checkpoint: in float32, on the CPU.
        folder: as ``ExportedModel.from_pretrained`` reads it.
        runtime: the package that runs it.
        together: whether it reads several texts at once.

    Raises:
        InputError: when it says something else, or nothing.
    """
    model, graph = checkpoint.model, open_folder(folder)
    differences, pairs = [], []
    for batch in batches(checkpoint, together):
        path, wanted = decode(reader(model, use_cache=True), batch, DynamicCache(config=model.config))
        found = _decode_in(reader(model, graph), batch, empty(checkpoint, batch), path, runtime)
        pairs.append((path, found[0]))
        differences.append(apart(wanted, found[1], batch[1]))
    told = Agreement(
        f"{runtime} {version(runtime)}",
        max(differences),
        sum(wanted.numel() for wanted, _ in pairs),
        sum(int((wanted == found).sum()) for wanted, found in pairs),
    )
    refuse_other(told, checkpoint.name)
    return told


def _decode_in(read: Read, batch: Batch, cache: Any, path: Tensor, runtime: str) -> tuple[Tensor, Tensor]:
    """What a runtime decodes, where it can."""
    try:
        return decode(read, batch, cache, path)
    except Exception as error:  # runtimes raise classes of their own
        raise InputError(
            f"{runtime} can't run what was written ({type(error).__name__}: {one_line(error)}): nothing was kept, use "
            "the folder as it is, in transformers or vLLM, or another `to`"
        ) from error


def open_folder(folder: Path) -> Any:
    """A folder in its runtime, as transformers opens it."""
    with silence():
        return exporters().ExportedModel.from_pretrained(folder, device="cpu")


def reader(model: Any, graph: Any = None, **options: Any) -> Read:
    """Reads with a graph, or with the model that it was made of."""

    def read(new: Tensor, mask: Tensor, cache: Any) -> Any:
        return (graph or model)(**call(model, new, mask, cache), **options)

    return read


@torch.no_grad()
def empty(checkpoint: Checkpoint, batch: Batch) -> DynamicCache:
    """A cache without tokens for a batch."""
    ids, mask = batch
    cache = DynamicCache()
    checkpoint.model(**call(checkpoint.model, ids[:1, -1:], mask[:1, -1:], cache), use_cache=True)
    return no_past(cache, len(ids))


def apart(wanted: Tensor, found: Tensor, mask: Tensor) -> float:
    """The largest difference of a logit where something was read, as a share of the largest logit."""
    real = torch.cat([mask, mask.new_ones(len(mask), wanted.shape[1] - mask.shape[1])], 1).bool()
    return float((found - wanted)[real].abs().max() / wanted[real].abs().max())


def refuse_other(told: Agreement, name: str) -> None:
    """Nothing is kept that says something else. A token may differ only where two are as likely as can be told."""
    if not told.difference <= BOUND:
        raise InputError(
            f"what was written gives other logits in {told.runtime} than {name} in torch (by {told.difference:.3g} of "
            f"the largest, at most {BOUND:g} was expected, {told.same} of {told.tokens} tokens are the same): nothing "
            "was kept, report it with the options you gave"
        )
