"""Any Hugging Face classifier as a detector: of tokens, or of whole sentences or texts.

A *token* classifier marks the pieces whose probability of the counted labels passes a threshold; what lies between two
marked pieces is marked too. A *sequence* classifier judges sentence by sentence, or a text as a whole, and what passes
is one span. Labels that count are those that were named, or all that do not say "nothing here" by a usual name.
Probabilities are sigmoids where the config says multi-label (the largest counts) or has one label, else a softmax
(the sum counts). Texts longer than the model reads are read in overlapping windows: of a piece counts the window in
which it is farthest from an edge, of a sentence the one that says most. Rows go in batches of similar lengths.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedTokenizerBase

from remodeler.auditing.formats.span_lists import HARMLESS
from remodeler.auditing.spans import Span, of_mask
from remodeler.auditing.tagger.labels import Pieces, batches, cut, joined, likelihoods
from remodeler.checkpoint.load import check_files, context_of, one_sentence, pick_device, pick_dtype, read_tokenizer
from remodeler.checkpoint.repositories import note_adapter, without_adapter
from remodeler.data.windows import padded, padding_id
from remodeler.errors import InputError
from remodeler.model.minibatches import CACHED_TOKENS, MOST_TOKENS, device_of
from remodeler.runs.job import enough_memory

AUTO = {"tokens": AutoModelForTokenClassification, "sentences": AutoModelForSequenceClassification}
LONGEST = 512
"""Pieces a window, where neither the model nor its tokenizer has a lower limit."""
HALF = 0.5
"""The threshold, where none is given."""
AT_ONCE, MOST_ROWS = 1000, 256
"""Texts that are cut into pieces at a time; windows of a batch."""
SENTENCE = re.compile(r"\S(?:.*?[.!?…]+(?=\s|$)|.*)")
"""The dot does not pass the end of a line."""


@dataclass(frozen=True)
class Settings:
    """How a classifier is read."""

    threshold: float | None = None
    """By default 0.5; a tagger has one of its own."""
    labels: tuple[str, ...] = ()
    """Those that count; by default all but the harmless ones."""
    whole: bool = False
    """Of sequences: judge a text as a whole, not by its sentences."""
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Classifier:
    """A model that says something of tokens or of texts."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    columns: tuple[int, ...]
    """Labels that count."""
    several: bool
    """Every label stands for itself."""
    length: int
    """Pieces it reads at once."""


def opened(name: str, kind: str, settings: Settings) -> Classifier:
    """Load a classifier.

    Args:
        name: folder or hub id.
        kind: ``tokens`` or ``sentences``.
        settings: how it is read.

    Raises:
        InputError: for what is no such classifier, in one sentence.
    """
    where: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    tokenizer = read_tokenizer(name, **where)
    check_files(Path(name))
    note_adapter(Path(name))
    options: dict[str, Any] = {
        "use_safetensors": True,
        "output_loading_info": True,
        "dtype": pick_dtype(settings.dtype),
    }
    with one_sentence(name, "the classifier"):
        model, info = AUTO[kind].from_pretrained(name, **options, **where, **without_adapter(name))
    if info["missing_keys"]:
        first = min(info["missing_keys"])
        raise InputError(f"{name} is no trained classifier of {kind}: {first} is not in it, choose another --detector")
    config = model.config
    several = config.num_labels == 1 or config.problem_type == "multi_label_classification"
    columns = counted(name, config.id2label, settings.labels)
    length = min(context_of(config) or LONGEST, tokenizer.model_max_length, LONGEST)
    return Classifier(model.eval().to(pick_device(settings.device)), tokenizer, columns, several, length)


def counted(name: str, labels: dict[int, str], wanted: Sequence[str]) -> tuple[int, ...]:
    """The columns of the labels that count; ``B-`` and ``I-`` in front of a name are passed over.

    Raises:
        InputError: when no label has a wanted name, or none is left that may say something.
    """
    names = {column: re.sub(r"^[BILESU]-", "", label) for column, label in labels.items()}
    unknown = [each for each in wanted if each not in {*names.values(), *labels.values()}]
    if unknown:
        raise InputError(f"{name} has no label {unknown[0]!r}: choose of {', '.join(dict.fromkeys(names.values()))}")
    if wanted:
        return tuple(column for column in labels if {names[column], labels[column]} & set(wanted))
    found = tuple(column for column in labels if len(labels) == 1 or names[column].lower() not in HARMLESS)
    if not found:
        raise InputError(
            f"the labels of {name} all say that nothing is there ({', '.join(labels.values())}): name --labels"
        )
    return found


# Running --------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def said(classifier: Classifier, pieces: Pieces) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """What the model says of every window, by its number: [ids] of its tokens, or [] of the whole."""
    device, tokenizer = device_of(classifier.model), classifier.tokenizer
    rows = MOST_ROWS if tokenizer.pad_token is not None else 1
    left = tokenizer.padding_side == "left"
    for batch in batches(pieces.windows, rows, CACHED_TOKENS if device.type == "cpu" else MOST_TOKENS):
        numbers = [number for number in batch if pieces.windows[number].ids]
        if not numbers:
            continue
        turned = [pieces.windows[number].ids[:: -1 if left else 1] for number in numbers]
        ids, real = padded(turned, padding_id(tokenizer))
        real = torch.ones_like(ids) if real is None else real
        ids, real = (each.flip(1) if left else each for each in (ids, real))
        with enough_memory("--device cpu"):
            logits = classifier.model(input_ids=ids.to(device), attention_mask=real.to(device)).logits
        found = _toxic(classifier, logits.double()).cpu()
        for number, row, mask in zip(numbers, found, real.bool(), strict=True):
            yield number, (row[mask] if row.dim() else row).numpy()


def _toxic(classifier: Classifier, logits: Tensor) -> Tensor:
    """Probability of the counted labels: [..., labels] to [...]."""
    chosen = list(classifier.columns)
    if classifier.several:
        return logits.sigmoid()[..., chosen].amax(-1)
    return logits.softmax(-1)[..., chosen].sum(-1)


def read(classifier: Classifier, texts: Sequence[str]) -> Pieces:
    """Texts as the classifier reads them; long ones in windows that overlap by a quarter."""
    room = classifier.length - classifier.tokenizer.num_special_tokens_to_add()
    return cut(texts, classifier.tokenizer, classifier.length, room // 4)


# Detectors ------------------------------------------------------------------------------------------------------------


def token_spans(classifier: Classifier, settings: Settings, texts: Sequence[str]) -> list[list[Span]]:
    """Runs of pieces that pass."""
    parts = (texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE))
    scores = [each for part in parts for each in _scores(classifier, part)]
    return [of_mask(each >= passing(settings), each) for each in scores]


def passing(settings: Settings) -> float:
    """The least probability that counts."""
    return HALF if settings.threshold is None else settings.threshold


def _scores(classifier: Classifier, texts: Sequence[str]) -> list[NDArray[np.float64]]:
    """[characters] of every text: how likely each is of a counted label."""
    pieces = read(classifier, texts)
    said_of = [np.zeros((0, 2)) for _ in pieces.windows]
    for number, row in said(classifier, pieces):
        inside = row[pieces.windows[number].places]
        said_of[number] = np.stack([1 - inside, inside], axis=1)
    found = zip(joined(pieces, said_of), pieces.offsets, texts, strict=True)
    return [likelihoods(believed, offsets, len(text)) for believed, offsets, text in found]


def unit_spans(classifier: Classifier, settings: Settings, texts: Sequence[str]) -> list[list[Span]]:
    """Sentences, or whole texts, that pass."""
    units = [(number, start, end) for number, text in enumerate(texts) for start, end in _units(text, settings.whole)]
    found: list[list[Span]] = [[] for _ in texts]
    for start in range(0, len(units), AT_ONCE):
        part = units[start : start + AT_ONCE]
        pieces = read(classifier, [texts[number][first:end] for number, first, end in part])
        best = np.zeros(len(part))
        for window, score in said(classifier, pieces):
            unit = pieces.windows[window].post
            best[unit] = max(best[unit], float(score))
        for (number, first, end), highest in zip(part, best.tolist(), strict=True):
            if highest >= passing(settings):
                found[number].append(Span(first, end, highest))
    return found


def _units(text: str, whole: bool) -> list[tuple[int, int]]:
    """The text without blanks around it, or its sentences."""
    if whole:
        start = len(text) - len(text.lstrip())
        return [(start, len(text.rstrip()))] if text.strip() else []
    return sentences(text)


def sentences(text: str) -> list[tuple[int, int]]:
    """Where sentences lie: up to a full stop, question or exclamation mark before a blank, or the end of a line."""
    found = ((match.start(), match.start() + len(match.group().rstrip())) for match in SENTENCE.finditer(text))
    return [(start, end) for start, end in found if end > start]
