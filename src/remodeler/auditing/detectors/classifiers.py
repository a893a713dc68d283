"""Any Hugging Face classifier as a detector: of tokens, or of whole sentences or texts.

A *token* classifier marks the pieces whose probability of the toxic labels reaches a threshold, and the gaps between
them. A *sequence* classifier classifies sentences, or whole texts, and each one that reaches the threshold is a span.
Labels count if they were named, else all but the usual names of "not toxic". Probabilities are sigmoids where the
config says multi-label (their maximum counts) or has one label, else a softmax (their sum counts). Texts that are too
long are split into overlapping windows: a piece takes the score of the window in which it is farthest from an edge, a
sentence the highest score. Rows of similar lengths share a batch.
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

from remodeler.auditing.config import DetectorConfig
from remodeler.auditing.formats.span_lists import HARMLESS
from remodeler.auditing.spans import Span, from_mask
from remodeler.auditing.tagger.labels import Pieces, batches, join_windows, likelihoods, tokenize_texts
from remodeler.checkpoint.config import LoadConfig
from remodeler.checkpoint.devices import pick_device, pick_dtype
from remodeler.checkpoint.library_errors import one_sentence
from remodeler.checkpoint.load import check_files, context_of, read_tokenizer
from remodeler.checkpoint.repositories import note_adapter, without_adapter
from remodeler.data.windows import pad, padding_id
from remodeler.errors import InputError, option
from remodeler.model.minibatches import CACHED_TOKENS, MOST_TOKENS, device_of
from remodeler.runs.job import enough_memory

AUTO = {"tokens": AutoModelForTokenClassification, "sentences": AutoModelForSequenceClassification}
LONGEST = 512
"""Tokens per window, where neither the model nor its tokenizer has a lower limit."""
DEFAULT_THRESHOLD = 0.5
AT_ONCE, MOST_ROWS = 1000, 256
"""Texts that are tokenized at a time; windows per batch."""
SENTENCE = re.compile(r"\S(?:.*?[.!?…]+(?=\s|$)|.*)")
"""The dot does not match the end of a line."""


@dataclass(frozen=True)
class Classifier:
    """A model that classifies tokens or sequences."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    columns: tuple[int, ...]
    """Labels that count as toxic."""
    multi_label: bool
    """Whether every label has a probability of its own."""
    length: int
    """Tokens per window."""


def load(name: str, kind: str, detection: DetectorConfig, loading: LoadConfig) -> Classifier:
    """Load a classifier.

    Args:
        name: folder or hub id.
        kind: ``tokens`` or ``sentences``.
        detection: labels that count.
        loading: how it is loaded.

    Raises:
        InputError: if it is not such a classifier.
    """
    where: dict[str, Any] = {"trust_remote_code": loading.trust_remote_code}
    tokenizer = read_tokenizer(name, **where)
    check_files(Path(name))
    note_adapter(Path(name))
    options: dict[str, Any] = {
        "use_safetensors": True,
        "output_loading_info": True,
        "dtype": pick_dtype(loading.dtype),
    }
    with one_sentence(name, "the classifier"):
        model, info = AUTO[kind].from_pretrained(name, **options, **where, **without_adapter(name))
    if info["missing_keys"]:
        first = min(info["missing_keys"])
        fault = f"{name} is not a trained classifier of {kind} (weights {first} are missing)"
        raise InputError(f"{fault}: choose another {option('detector')}")
    config = model.config
    multi_label = config.num_labels == 1 or config.problem_type == "multi_label_classification"
    columns = toxic_columns(name, config.id2label, detection.labels)
    length = min(context_of(config) or LONGEST, tokenizer.model_max_length, LONGEST)
    return Classifier(model.eval().to(pick_device(loading.device)), tokenizer, columns, multi_label, length)


def toxic_columns(name: str, labels: dict[int, str], wanted: Sequence[str]) -> tuple[int, ...]:
    """Columns of the labels that count as toxic; prefixes such as ``B-`` and ``I-`` of names are ignored.

    Raises:
        InputError: if no label has a wanted name, or all are names of what is not toxic.
    """
    names = {column: re.sub(r"^[BILESU]-", "", label) for column, label in labels.items()}
    unknown = [each for each in wanted if each not in {*names.values(), *labels.values()}]
    if unknown:
        raise InputError(f"{name} has no label {unknown[0]!r}: choose {', '.join(dict.fromkeys(names.values()))}")
    if wanted:
        return tuple(column for column in labels if {names[column], labels[column]} & set(wanted))
    found = tuple(column for column in labels if len(labels) == 1 or names[column].lower() not in HARMLESS)
    if not found:
        raise InputError(
            f"all labels of {name} are names of what is not toxic ({', '.join(labels.values())}): "
            f"choose {option('labels')}"
        )
    return found


# Running --------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def run_windows(classifier: Classifier, pieces: Pieces) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Toxic probability of every window, with its number: [ids] for its tokens, or [] for the whole."""
    device, tokenizer = device_of(classifier.model), classifier.tokenizer
    rows = MOST_ROWS if tokenizer.pad_token is not None else 1
    left = tokenizer.padding_side == "left"
    for batch in batches(pieces.windows, rows, CACHED_TOKENS if device.type == "cpu" else MOST_TOKENS):
        numbers = [number for number in batch if pieces.windows[number].ids]
        if not numbers:
            continue
        rows_of_ids = [pieces.windows[number].ids[:: -1 if left else 1] for number in numbers]
        ids, real = pad(rows_of_ids, padding_id(tokenizer))
        real = torch.ones_like(ids) if real is None else real
        ids, real = (each.flip(1) if left else each for each in (ids, real))
        with enough_memory(option("device", "cpu")):
            logits = classifier.model(input_ids=ids.to(device), attention_mask=real.to(device)).logits
        found = _toxic_probability(classifier, logits.double()).cpu()
        for number, row, mask in zip(numbers, found, real.bool(), strict=True):
            yield number, (row[mask] if row.dim() else row).numpy()


def _toxic_probability(classifier: Classifier, logits: Tensor) -> Tensor:
    """Probability of the toxic labels: [..., labels] to [...]."""
    chosen = list(classifier.columns)
    if classifier.multi_label:
        return logits.sigmoid()[..., chosen].amax(-1)
    return logits.softmax(-1)[..., chosen].sum(-1)


def tokenize(classifier: Classifier, texts: Sequence[str]) -> Pieces:
    """Tokenize texts; long ones in windows that overlap by a quarter."""
    room = classifier.length - classifier.tokenizer.num_special_tokens_to_add()
    return tokenize_texts(texts, classifier.tokenizer, classifier.length, room // 4)


# Detectors ------------------------------------------------------------------------------------------------------------


def token_spans(classifier: Classifier, detection: DetectorConfig, texts: Sequence[str]) -> list[list[Span]]:
    """Runs of pieces that reach the threshold."""
    parts = (texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE))
    scores = [each for part in parts for each in _character_scores(classifier, part)]
    return [from_mask(each >= threshold_of(detection), each) for each in scores]


def threshold_of(detection: DetectorConfig) -> float:
    """Minimum probability of a span."""
    return DEFAULT_THRESHOLD if detection.threshold is None else detection.threshold


def _character_scores(classifier: Classifier, texts: Sequence[str]) -> list[NDArray[np.float64]]:
    """Per text [characters] probabilities of a toxic label."""
    pieces = tokenize(classifier, texts)
    parts = [np.zeros((0, 2)) for _ in pieces.windows]
    for number, row in run_windows(classifier, pieces):
        inside = row[pieces.windows[number].places]
        parts[number] = np.stack([1 - inside, inside], axis=1)
    found = zip(join_windows(pieces, parts), pieces.offsets, texts, strict=True)
    return [likelihoods(tags, offsets, len(text)) for tags, offsets, text in found]


def unit_spans(classifier: Classifier, detection: DetectorConfig, texts: Sequence[str]) -> list[list[Span]]:
    """Sentences, or whole texts, that reach the threshold."""
    units = [(number, start, end) for number, text in enumerate(texts) for start, end in _units(text, detection.whole)]
    found: list[list[Span]] = [[] for _ in texts]
    for start in range(0, len(units), AT_ONCE):
        part = units[start : start + AT_ONCE]
        pieces = tokenize(classifier, [texts[number][first:end] for number, first, end in part])
        best = np.zeros(len(part))
        for window, score in run_windows(classifier, pieces):
            unit = pieces.windows[window].post
            best[unit] = max(best[unit], float(score))
        for (number, first, end), highest in zip(part, best.tolist(), strict=True):
            if highest >= threshold_of(detection):
                found[number].append(Span(first, end, highest))
    return found


def _units(text: str, whole: bool) -> list[tuple[int, int]]:
    """Place of the text without white space around it, or of its sentences."""
    if whole:
        start = len(text) - len(text.lstrip())
        return [(start, len(text.rstrip()))] if text.strip() else []
    return sentences(text)


def sentences(text: str) -> list[tuple[int, int]]:
    """Places of sentences: up to a full stop, question or exclamation mark before a space, or the end of a line."""
    found = ((match.start(), match.start() + len(match.group().rstrip())) for match in SENTENCE.finditer(text))
    return [(start, end) for start, end in found if end > start]
