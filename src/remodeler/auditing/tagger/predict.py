"""Predict with a tagger: windows of all texts sorted by length, in batches; likelihoods of characters; spans.

Sorting leaves hardly any padding, batches run in parallel threads, and tensors are converted once per batch: the stock
pipeline, which takes text by text, spends its time there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray

from remodeler.auditing.spans import Detector, Likely, Span
from remodeler.auditing.tagger.files import LoadedTagger
from remodeler.auditing.tagger.labels import SCHEMES, Window, batches, join_windows, likelihoods, tokenize_texts
from remodeler.auditing.tagger.model import collate
from remodeler.auditing.tagger.rules import spans_of
from remodeler.runs.progress import Progress, silent
from remodeler.runs.threads import side_by_side

MOST, TOKENS = 32, 768
"""Windows and tokens per batch: more is not faster on a CPU."""


@dataclass(frozen=True)
class TaggedText:
    """Predictions for a text."""

    spans: list[Span]
    likely: Likely
    """[characters]"""


def character_likelihoods(
    tagger: LoadedTagger, texts: Sequence[str], progress: Progress = silent, tokens: int = TOKENS
) -> list[Likely]:
    """Likelihoods of all characters of all texts to be inside a span."""
    settings = tagger.settings
    pieces = tokenize_texts(texts, tagger.tokenizer, settings.length, settings.stride)
    parts: list[NDArray[np.float32]] = [np.zeros((0, 0), np.float32)] * len(pieces.windows)
    # The largest first, so that threads end together.
    groups, done = list(batches(pieces.windows, MOST, tokens))[::-1], 0
    tagger.model.eval()
    with side_by_side(None if tagger.device.type == "cpu" else 1) as (pool, _):
        read = partial(_run_batch, tagger, pieces.windows)
        for group, probabilities in zip(groups, pool.map(read, groups), strict=True):
            for number, values in zip(group, probabilities, strict=True):
                parts[number] = values[: len(pieces.windows[number].places)]
            done += len(group)
            progress(done / len(pieces.windows), f"{done} of {len(pieces.windows)} windows")
    lengths = map(len, texts)
    return list(map(likelihoods, join_windows(pieces, parts), pieces.offsets, lengths, repeat(settings.rules.fill)))


@torch.inference_mode()
def _run_batch(tagger: LoadedTagger, windows: Sequence[Window], group: Sequence[int]) -> NDArray[np.float32]:
    """[batch, pieces, tags] tag probabilities of some windows; with Viterbi 0 or 1."""
    model = tagger.model
    batch = collate([windows[number] for number in group], tagger.tokenizer, tagger.device)
    emissions = model(batch)
    if tagger.settings.rules.decode == "viterbi":
        best = model.best_tags(emissions, batch.mask).cpu().numpy()
        certain: NDArray[np.float32] = np.eye(len(SCHEMES[model.head.scheme]), dtype=np.float32)[best]
        return certain
    found: NDArray[np.float32] = model.log_probabilities(emissions, batch.mask).exp().cpu().numpy()
    return found


def predict(tagger: LoadedTagger, texts: Sequence[str], progress: Progress = silent) -> list[TaggedText]:
    """Predict spans and likelihoods of texts, in their order."""
    likely = character_likelihoods(tagger, texts, progress)
    rules = tagger.settings.rules
    return [TaggedText(spans_of(one, text, rules), one) for one, text in zip(likely, texts, strict=True)]


def find_spans(tagger: LoadedTagger, texts: Sequence[str]) -> list[list[Span]]:
    """Predict spans of texts."""
    return [found.spans for found in predict(tagger, texts)]


def detector(tagger: LoadedTagger) -> Detector:
    """A tagger as a detector."""
    return partial(find_spans, tagger)
