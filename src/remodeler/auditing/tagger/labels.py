"""Convert spans to tags of word pieces, and tag probabilities back to likelihoods of characters.

A piece is inside if more than half of its characters are. Schemes: ``io`` (as YNU-HPCC's code, which joins B and I)
and ``bio``. The likelihood of characters between two pieces is the smaller one of both; with ``bio``, the smaller one
of the left piece and of the right piece *continuing*. So one threshold decides pieces and gaps, and members with
different tokenizers can be averaged by characters. Longer texts are split into windows of ``length`` tokens that
overlap by ``stride``; a piece takes its prediction from the window where it is farthest from an edge.

Deviation: special tokens have no tags here; YNU-HPCC trains on them as outside.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remodeler.auditing.spans import Span, mask
from remodeler.data.windows import tokenizer_errors
from remodeler.errors import InputError, option

SCHEMES: dict[str, tuple[str, ...]] = {"io": ("O", "I"), "bio": ("O", "B", "I")}
"""Tags of each scheme, in the order of a head's outputs."""
OUTSIDE = 0


@dataclass(frozen=True)
class Window:
    """A part of a text that fits into the encoder."""

    post: int
    ids: tuple[int, ...]
    """Special tokens included."""
    kinds: tuple[int, ...]
    """Token types; empty where the tokenizer has none."""
    places: NDArray[np.int64]
    """[pieces] positions in ``ids`` of the pieces, special tokens excluded."""
    first: int
    """Number in its text of the first piece."""


@dataclass(frozen=True)
class Pieces:
    """Tokenized texts: offsets of their pieces, and windows."""

    offsets: tuple[NDArray[np.int64], ...]
    """Per text [pieces, 2] start and end of every piece, without white space at its edges."""
    windows: tuple[Window, ...]


def tokenize_texts(texts: Sequence[str], tokenizer: Any, length: int, stride: int) -> Pieces:
    """Tokenize texts with a fast tokenizer.

    Raises:
        InputError: if the tokenizer is not fast, or windows are too short to advance.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} is not a fast one, which offsets need: "
            "choose an encoder with a tokenizer.json"
        )
    step = length - tokenizer.num_special_tokens_to_add() - stride
    if step < 1 or stride < 0:
        fault = f"windows of {length} tokens can't overlap by {stride}"
        raise InputError(f"{fault}: raise {option('length')} or lower {option('stride')}")
    if not texts:
        return Pieces((), ())
    tokenizer.truncation_side = "right"
    with tokenizer_errors(tokenizer):
        found = tokenizer(
            list(texts),
            truncation=True,
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
    return _pieces(texts, found, step)


def _pieces(texts: Sequence[str], found: Any, step: int) -> Pieces:
    windows: list[Window] = []
    offsets: list[list[NDArray[np.int64]]] = [[] for _ in texts]
    names = ("overflow_to_sample_mapping", "input_ids", "special_tokens_mask", "offset_mapping")
    kinds = found.get("token_type_ids") or [()] * len(found["input_ids"])
    for post, ids, special, pairs, kind in zip(*(found[name] for name in names), kinds, strict=True):
        places = np.flatnonzero(np.asarray(special) == 0)
        if not len(places):
            continue  # no piece has a tag
        before = len(offsets[post])
        windows.append(Window(post, tuple(ids), tuple(kind), places, before * step))
        seen = sum(map(len, offsets[post])) - before * step
        offsets[post].append(np.asarray(pairs, dtype=np.int64).reshape(-1, 2)[places][seen:])
    join_windows = [np.concatenate(parts) if parts else np.zeros((0, 2), np.int64) for parts in offsets]
    return Pieces(tuple(map(_strip_offsets, join_windows, texts)), tuple(windows))


def _strip_offsets(pairs: NDArray[np.int64], text: str) -> NDArray[np.int64]:
    """Strip white space from the edges of pieces; a piece of nothing else stays."""
    places = np.arange(len(text) + 1)
    solid = np.array([not letter.isspace() for letter in text], dtype=bool)
    after = np.where(np.append(solid, True), places, len(text))
    after = np.minimum.accumulate(after[::-1])[::-1]  # the next character that is no space
    until = np.maximum.accumulate(np.where(np.insert(solid, 0, True), places, 0))  # the end of the last one before
    start = np.minimum(after[pairs[:, 0]], pairs[:, 1])
    end = np.maximum(until[pairs[:, 1]], start)
    return np.where((start < end)[:, None], np.stack([start, end], axis=1), pairs)


# Spans to tags --------------------------------------------------------------------------------------------------------


def tags(spans: Sequence[Span], offsets: NDArray[np.int64], scheme: str) -> NDArray[np.int64]:
    """[pieces] tags, as indices of the scheme."""
    starts, ends = offsets[:, 0], offsets[:, 1]
    length = max([0, *ends.tolist(), *(span.end for span in spans)])
    before = np.concatenate(([0], np.cumsum(mask(spans, length))))
    inside = (before[ends] - before[starts]) * 2 > ends - starts
    if scheme == "io":
        return np.where(inside, 1, OUTSIDE)
    owner = np.where(inside, _owners(spans, offsets), -1)
    begins = inside & (owner != np.concatenate(([-1], owner[:-1])))
    return np.where(begins, 1, np.where(inside, 2, OUTSIDE))


def _owners(spans: Sequence[Span], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """[pieces] number of the span that overlaps a piece most; of any span, where none does."""
    starts, ends = offsets[:, 0], offsets[:, 1]
    first = np.searchsorted([span.end for span in spans], starts, side="right")
    behind = np.searchsorted([span.start for span in spans], ends, side="left")
    found: NDArray[np.int64] = first.astype(np.int64)
    for piece in np.flatnonzero(behind - first > 1):
        rivals = spans[first[piece] : behind[piece]]
        shared = [min(each.end, ends[piece]) - max(each.start, starts[piece]) for each in rivals]
        found[piece] = first[piece] + int(np.argmax(shared))
    return found


def soft_tags(values: NDArray[np.floating[Any]], offsets: NDArray[np.int64], scheme: str) -> NDArray[np.float64]:
    """[pieces, tags] tag probabilities from likelihoods of characters (of a teacher).

    The likelihood of a piece is the mean of its characters; with ``bio`` it begins a span to the extent that the gap
    before it, or the piece before it, is less likely.
    """
    sums = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    starts, ends = offsets[:, 0], offsets[:, 1]
    inside = np.clip((sums[ends] - sums[starts]) / np.maximum(1, ends - starts), 0, 1)
    if scheme == "io":
        return np.stack([1 - inside, inside], axis=1)
    before = np.concatenate(([0.0], inside[:-1]))
    lefts = np.concatenate(([0], ends[:-1]))
    gaps = np.array([values[a:b].min() if b > a else 1.0 for a, b in zip(lefts, starts, strict=True)])
    continues = np.minimum(np.minimum(before, gaps), inside)
    return np.stack([1 - inside, inside - continues, continues], axis=1)


# Tags to characters ---------------------------------------------------------------------------------------------------


def join_windows(pieces: Pieces, parts: Sequence[NDArray[np.floating[Any]]]) -> list[NDArray[np.float64]]:
    """Join predictions of windows, ``parts`` [pieces, tags] each, into one array per text."""
    found = [np.zeros((len(pairs), part_width(parts))) for pairs in pieces.offsets]
    margins = [np.full(len(pairs), -1) for pairs in pieces.offsets]
    for window, part in zip(pieces.windows, parts, strict=True):
        count = len(window.places)
        margin = np.minimum(np.arange(count), np.arange(count)[::-1])
        where = np.arange(window.first, window.first + count)
        better = margin > margins[window.post][where]
        margins[window.post][where[better]] = margin[better]
        found[window.post][where[better]] = part[better]
    return found


def part_width(parts: Sequence[NDArray[np.floating[Any]]]) -> int:
    """Number of tags in arrays of tag probabilities."""
    return int(parts[0].shape[1]) if len(parts) else 2


def likelihoods(
    tag_probabilities: NDArray[np.floating[Any]], offsets: NDArray[np.int64], length: int, fill: bool = True
) -> NDArray[np.float64]:
    """[length] likelihoods of characters to be inside, from tag probabilities [pieces, tags].

    Without ``fill``, characters between pieces have likelihood 0.
    """
    values = np.zeros(length)
    inside = tag_probabilities[:, 1:].sum(1)
    continues = tag_probabilities[:, -1]
    for number, (start, end) in enumerate(offsets):
        values[start:end] = np.maximum(values[start:end], inside[number])
        if fill and number and (left := offsets[number - 1][1]) < start:
            values[left:start] = min(inside[number - 1], continues[number])
    return values


def batches(windows: Sequence[Window], most: int, tokens: int) -> Iterator[list[int]]:
    """Numbers of windows sorted by length, in batches of at most ``most`` windows and ``tokens`` padded tokens."""
    batch: list[int] = []
    for number in sorted(range(len(windows)), key=lambda each: len(windows[each].ids)):
        if batch and (len(batch) == most or (len(batch) + 1) * len(windows[number].ids) > tokens):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
