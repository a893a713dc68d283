"""A tagger at work: windows of all texts sorted by length, in batches; likelihoods of characters; spans.

Sorting leaves hardly any padding, batches are read side by side, a thread each, and beliefs become numbers of Python
once a batch: that is where the time of the stock pipeline goes, which takes text after text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray

from remodeler.auditing.spans import Detector, Likely, Span
from remodeler.auditing.tagger.files import Trained
from remodeler.auditing.tagger.labels import SCHEMES, Window, batches, cut, joined, likelihoods
from remodeler.auditing.tagger.model import collated
from remodeler.auditing.tagger.rules import spans_of
from remodeler.runs.progress import Progress, silent
from remodeler.runs.threads import side_by_side

MOST, TOKENS = 32, 768
"""Windows and tokens of a batch: on a CPU, more is not faster."""


@dataclass(frozen=True)
class Found:
    """What a tagger says of a text."""

    spans: list[Span]
    likely: Likely
    """[characters]"""


def likely_characters(
    trained: Trained, texts: Sequence[str], progress: Progress = silent, tokens: int = TOKENS
) -> list[Likely]:
    """How likely every character of every text is inside a span."""
    settings = trained.settings
    pieces = cut(texts, trained.tokenizer, settings.length, settings.stride)
    parts: list[NDArray[np.float32]] = [np.zeros((0, 0), np.float32)] * len(pieces.windows)
    groups, done = list(batches(pieces.windows, MOST, tokens))[::-1], 0  # the largest first: threads end together
    trained.model.eval()
    with side_by_side(None if trained.device.type == "cpu" else 1) as (pool, _):
        read = partial(_read, trained, pieces.windows)
        for group, believed in zip(groups, pool.map(read, groups), strict=True):
            for number, values in zip(group, believed, strict=True):
                parts[number] = values[: len(pieces.windows[number].places)]
            done += len(group)
            progress(done / len(pieces.windows), f"{done} of {len(pieces.windows)} windows")
    lengths = map(len, texts)
    return list(map(likelihoods, joined(pieces, parts), pieces.offsets, lengths, repeat(settings.rules.fill)))


@torch.inference_mode()
def _read(trained: Trained, windows: Sequence[Window], group: Sequence[int]) -> NDArray[np.float32]:
    """[batch, pieces, tags]: how likely each tag of some windows is; with Viterbi, certain."""
    model = trained.model
    reads = collated([windows[number] for number in group], trained.tokenizer, trained.device)
    emissions = model(reads)
    if trained.settings.rules.decode == "viterbi":
        best = model.best(emissions, reads.mask).cpu().numpy()
        certain: NDArray[np.float32] = np.eye(len(SCHEMES[model.head.scheme]), dtype=np.float32)[best]
        return certain
    found: NDArray[np.float32] = model.log_beliefs(emissions, reads.mask).exp().cpu().numpy()
    return found


def predict(trained: Trained, texts: Sequence[str], progress: Progress = silent) -> list[Found]:
    """Spans and likelihoods of texts, in their order."""
    likely = likely_characters(trained, texts, progress)
    rules = trained.settings.rules
    return [Found(spans_of(one, text, rules), one) for one, text in zip(likely, texts, strict=True)]


def find_spans(trained: Trained, texts: Sequence[str]) -> list[list[Span]]:
    """The spans of texts alone."""
    return [found.spans for found in predict(trained, texts)]


def detector(trained: Trained) -> Detector:
    """A tagger as what finds spans."""
    return partial(find_spans, trained)
