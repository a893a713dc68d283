"""Maps from a teacher's vocabulary to the student's, and a teacher's distribution in the student's vocabulary.

A map is an array [teacher rows] of student ids, -1 where a token has no counterpart. Tokens are compared by the bytes
they stand for (`token_bytes`), or by these as text (`surfaces`): a space takes the place of every marker.

* `exact_map`: the same bytes.
* `piece_map` (ours): else the first piece into which the student cuts the token. Whatever the teacher expects of the
  whole token it expects of that piece, so this mass is rightly the piece's.
* `edit_map` (FuseLLM's MinED, arXiv 2401.10491): else the student's token at the least edit distance.
* `statistics_map` (FuseChat, 2408.07990; in `remodeler.fusion.counts`): else the token that most often covers the
  same text in a corpus.

Deviations from the released codes: special tokens go by their role (`roles_map`) and are no candidates elsewhere; a
token without a counterpart is left out, where FuseChat maps it to the unknown token; probabilities that meet at a
student's token are added up, where they keep the first (``collide="first"``); and what is left out stays in the rest,
where they renormalise.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from remodeler.errors import InputError
from remodeler.fusion.offsets import BYTE_NAME, Ints, backend_tokenizer, opaque_ids, spelling
from remodeler.model.logprobs import TopK

Contents = Sequence[bytes | None]
"""Contents of the ids of a vocabulary: bytes, or None for special tokens and rows without a token."""

ROLES = ("eos", "bos", "sep", "cls", "mask", "pad", "unk")
"""In this order: where one token of the teacher has several roles, the end of a text is what a model predicts."""
QUERIES = 512
"""Rows of edit distances that exist at once."""


# What tokens stand for ------------------------------------------------------------------------------------------------


def token_bytes(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[bytes | None]:
    """The bytes that every id stands for: [rows].

    Args:
        tokenizer: a fast one.
        rows: of the model's vocabulary; those beyond the tokenizer's are None. So are byte tokens (``<0x61>``) whose
            byte has another token (``a``): no tokenizer uses them.

    Raises:
        InputError: when the tokenizer has ids that the model lacks, or is slow.
    """
    core, spelled, hidden = backend_tokenizer(tokenizer), spelling(tokenizer), opaque_ids(tokenizer)
    names = core.get_vocab(with_added_tokens=True)
    if names and max(names.values()) >= rows:
        raise InputError(
            f"the tokenizer has ids up to {max(names.values())}, the model's vocabulary {rows} rows: "
            "give the tokenizer that belongs to the model"
        )
    contents: list[bytes | None] = [None] * rows
    for name, place in names.items():
        contents[place] = None if place in hidden else spelled.read(name)
    for place, added in core.get_added_tokens_decoder().items():
        contents[place] = None if added.special else added.content.encode()
    if spelled.fallback:
        spare = {place for name, place in names.items() if BYTE_NAME.fullmatch(name)}
        others = {part for place, part in enumerate(contents) if place not in spare}
        contents = [None if place in spare and part in others else part for place, part in enumerate(contents)]
    return contents


def surfaces(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[str]:
    """Every id as text: [rows]; the name of a special token, empty for rows without a token."""
    contents, names = (
        token_bytes(tokenizer, rows),
        {place: name for name, place in backend_tokenizer(tokenizer).get_vocab().items()},
    )
    return [
        names.get(place, "") if part is None else part.decode("utf-8", "surrogateescape")
        for place, part in enumerate(contents)
    ]


# Maps -----------------------------------------------------------------------------------------------------------------


def roles_map(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, rows: int) -> Ints:
    """Map special tokens by name, and those with a role by role: [teacher rows]."""
    mapping = np.full(rows, -1)
    ours = {
        str(added): place
        for place, added in backend_tokenizer(student).get_added_tokens_decoder().items()
        if added.special
    }
    for place, added in backend_tokenizer(teacher).get_added_tokens_decoder().items():
        if added.special:
            mapping[place] = ours.get(str(added), -1)
    for role in reversed(ROLES):
        theirs, own = (getattr(each, f"{role}_token_id", None) for each in (teacher, student))
        if theirs is not None and own is not None:
            mapping[theirs] = own
    return mapping


def merge_maps(*maps: Ints) -> Ints:
    """Map every token by the first map that has it."""
    found = maps[0]
    for each in maps[1:]:
        found = np.where(found >= 0, found, each)
    return found


def exact_map(teacher: Contents, student: Contents) -> Ints:
    """Map tokens of the same bytes; the lowest id where the student has several."""
    ours = {part: place for place, part in reversed(list(enumerate(student))) if part is not None}
    return np.array([-1 if part is None else ours.get(part, -1) for part in teacher], dtype=np.int64)


def piece_map(teacher: Contents, student: Contents, tokenizer: PreTrainedTokenizerBase) -> Ints:
    """Map tokens of the same bytes, else to the first piece of the student's own tokenization of them.

    Args:
        teacher: what its ids stand for.
        student: what its ids stand for.
        tokenizer: the student's.
    """
    mapping, model, spelled = exact_map(teacher, student), backend_tokenizer(tokenizer).model, spelling(tokenizer)
    for place in np.flatnonzero(mapping < 0).tolist():
        part = teacher[place]
        name = spelled.write(part) if part else None
        pieces = model.tokenize(name) if name else []
        piece = student[pieces[0].id] if pieces else None
        if part and piece and part.startswith(piece):
            mapping[place] = pieces[0].id
    return mapping


def edit_map(teacher: Contents, student: Contents) -> Ints:
    """Map tokens of the same bytes, else those at the least edit distance, in text; the lowest id among equals."""
    mapping = exact_map(teacher, student)
    known = [place for place, part in enumerate(student) if part is not None]
    wanted = [place for place in np.flatnonzero(mapping < 0).tolist() if teacher[place] is not None]
    if known and wanted:
        mapping[wanted] = np.array(known)[_nearest(decode_ids(teacher, wanted), decode_ids(student, known))]
    return mapping


def decode_ids(contents: Contents, places: Iterable[int]) -> list[str]:
    """Some ids as text; bytes that are none as lone surrogates."""
    return [(contents[place] or b"").decode("utf-8", "surrogateescape") for place in places]


def _nearest(queries: Sequence[str], names: Sequence[str]) -> Ints:
    """For every query the first of the nearest names: [queries].

    The difference of their lengths is a lower bound of the distance of two strings, so names are looked at by length,
    the query's own first, until the bound is above the best distance.
    """
    lengths, sizes = (np.array([len(each) for each in strings]) for strings in (queries, names))
    buckets = {size: np.flatnonzero(sizes == size) for size in np.unique(sizes).tolist()}
    best, chosen = np.full(len(queries), np.iinfo(np.int32).max), np.full(len(queries), len(names))
    for length in np.unique(lengths).tolist():
        same = np.flatnonzero(lengths == length)
        for size in sorted(buckets, key=lambda size: abs(size - length)):
            open_ = same[best[same] >= abs(size - length)]
            for part in np.split(open_, range(QUERIES, len(open_), QUERIES)) if len(open_) else []:
                _improve(part, buckets[size], queries, names, best, chosen)
    return chosen


def _improve(part: Ints, bucket: Ints, queries: Sequence[str], names: Sequence[str], best: Ints, chosen: Ints) -> None:
    """Compare some queries with the names of one length."""
    found = process.cdist(
        [queries[place] for place in part],
        [names[place] for place in bucket],
        scorer=Levenshtein.distance,
        score_cutoff=int(best[part].max()),  # what is farther comes back as one more
        dtype=np.int32,
    )
    columns = found.argmin(1)
    near, ids = found[np.arange(len(part)), columns], bucket[columns]
    better = (near < best[part]) | ((near == best[part]) & (ids < chosen[part]))
    best[part[better]], chosen[part[better]] = near[better], ids[better]


# Distributions --------------------------------------------------------------------------------------------------------

Collide = Literal["sum", "first"]
"""How the probabilities of several tokens that map to one token are combined."""


def map_topk(top: TopK, mapping: Tensor, size: int, collide: Collide = "sum") -> TopK:
    """Map a teacher's sparse distributions to the student's vocabulary; their mass stays the same.

    Args:
        top: what the teacher predicts: [tokens, k].
        mapping: [teacher rows] int64 student ids, -1 for none; on the device of ``top``.
        size: of the student's vocabulary.
        collide: ``sum`` adds up, ``first`` keeps the likeliest and leaves the others to the rest, as the papers' code.

    Returns:
        [tokens, min(k, size)], likeliest first. What is not mapped is in the rest. Columns that are left over have
        log-probability -inf and ids that the row doesn't use otherwise, from the end of the vocabulary.

    Raises:
        InputError: when the map doesn't fit one of the vocabularies.
    """
    if not top.ids.numel():
        return top
    _check_map(top, mapping, size)
    return map_topk_to(top, mapping[top.ids], size, collide)


def map_topk_to(top: TopK, targets: Tensor, size: int, collide: Collide = "sum") -> TopK:
    """The same with a target for every prediction: [tokens, k] int64 student ids, -1 for none."""
    if collide not in get_args(Collide):
        raise InputError(f"{collide!r} is not a way to collide: choose one of {', '.join(get_args(Collide))}")
    ids, order = targets.sort(dim=1, stable=True)  # equal ids stay in the order of their probabilities
    logprobs = top.logprobs.gather(1, order)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    kept = first & (ids >= 0)
    lost = ids < 0
    if collide == "sum":
        logprobs = _sum_runs(logprobs, first.cumsum(1) - 1)
    else:
        lost = ~kept
    rest = torch.logaddexp(top.rest, top.logprobs.gather(1, order).masked_fill(~lost, -math.inf).logsumexp(1))
    return _sort_columns(ids, logprobs.masked_fill(~kept, -math.inf), kept, rest, size)


def _check_map(top: TopK, mapping: Tensor, size: int) -> None:
    highest, target = int(top.ids.max()), int(mapping.max()) if len(mapping) else -1
    if highest >= len(mapping) or target >= size:
        raise InputError(
            f"the map has {len(mapping)} rows and ids up to {target}, the teacher has ids up to {highest} and the "
            f"student {size} tokens: give the map that was made for these two vocabularies"
        )


def _sum_runs(logprobs: Tensor, runs: Tensor) -> Tensor:
    """At every place the log of the summed probabilities of its run: [tokens, k], ``runs`` numbered in every row."""
    none = torch.full_like(logprobs, -math.inf)
    peaks = none.scatter_reduce(1, runs, logprobs, "amax").gather(1, runs).clamp_min(torch.finfo(logprobs.dtype).min)
    sums = torch.zeros_like(logprobs).scatter_add(1, runs, (logprobs - peaks).exp()).gather(1, runs)
    return peaks + sums.log()


def _sort_columns(ids: Tensor, logprobs: Tensor, kept: Tensor, rest: Tensor, size: int) -> TopK:
    """Likeliest first; the columns that are not kept last, with ids of their own."""
    order = logprobs.sort(dim=1, descending=True, stable=True).indices
    # Tokens that are kept at probability 0 come before columns that are not kept.
    order = order.gather(1, kept.gather(1, order).int().sort(dim=1, descending=True, stable=True).indices)
    ids, logprobs, kept = (each.gather(1, order)[:, :size] for each in (ids, logprobs, kept))
    spare = min(size, 2 * ids.shape[1])  # so many ids from the end are enough for any row
    back = torch.where(kept, size - 1 - ids, spare).clamp_max(spare)
    taken = torch.zeros(len(ids), spare + 1, dtype=torch.int8, device=ids.device).scatter(1, back, 1)[:, :spare]
    free = size - 1 - taken.sort(dim=1, stable=True).indices[:, : ids.shape[1]]
    fill = free.gather(1, ((~kept).cumsum(1) - 1).clamp_min(0))
    return TopK(torch.where(kept, ids, fill), logprobs, rest)
