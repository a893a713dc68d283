"""What each model says of the texts: read by its own tokenizer, stored once, and heard at the student's positions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.fusion.corpus import Read, Rendered, read
from remodeler.fusion.counts import Counts, count, statistics_map
from remodeler.fusion.cross_tokenizer import (
    align_bytes,
    align_dp,
    from_groups_fusechat,
    from_groups_fusellm,
    marked_distances,
)
from remodeler.fusion.inside import inside_of, piece_table
from remodeler.fusion.offsets import Cut
from remodeler.fusion.teacher_predictions import Voice, voice
from remodeler.fusion.vocabularies import (
    Contents,
    edit_map,
    exact_map,
    first_of,
    piece_map,
    roles_map,
    surfaces,
    token_bytes,
)
from remodeler.model.logprobs import vocabulary
from remodeler.runs.progress import progress_bar
from remodeler.training.teacher_store import Store, make

BAND = 64
"""Tokens to either side of the diagonal of bytes that dynamic programming looks at."""


@dataclass(frozen=True)
class Ways:
    """How a teacher's positions and tokens become the student's."""

    align: str
    map: str
    parity: str | None
    inside: bool = True
    """A teacher speaks inside its tokens, where positions go by bytes and tokens by pieces."""
    by_rank: bool = False
    """Tokens that the student lacks keep their ranks."""


def asked(model: Checkpoint, own: Read, k: int, folder: Path) -> Store:
    """A model's predictions for its windows, made where they are not in the folder yet."""
    with progress_bar(f"asking {Path(model.name).name}") as progress:
        return make(model.anatomy, fingerprint(model.model), own.windows, k, folder, progress, gold=True)


def itself(student: Checkpoint, own: Read, k: int, folder: Path) -> Voice:
    """The student as a voice: at every position its own."""
    positions = [np.arange(len(each)) for each in own.cuts]
    return voice(student.name, asked(student, own, k, folder), own, own, positions, None)


def heard(
    student: Checkpoint, ours: Read, teacher: Checkpoint, texts: Sequence[Rendered], length: int, k: int,
    folder: Path, ways: Ways,
) -> Voice:  # fmt: skip
    """A teacher as a voice.

    Args:
        student: whose positions and tokens count.
        ours: the texts as it reads them.
        teacher: the model that is asked.
        texts: what both read.
        length: most tokens of a window.
        k: tokens of each prediction.
        folder: of its predictions.
        ways: how positions and tokens are matched.
    """
    theirs = read(texts, teacher.tokenizer, length, vocabulary(teacher.model))
    store = asked(teacher, theirs, k, folder)
    if student.tokenizer.get_vocab() == teacher.tokenizer.get_vocab() and _same_cuts(ours, theirs):
        same = [np.arange(len(each)) for each in ours.cuts]
        return voice(teacher.name, store, ours, theirs, same, _same_rows(student, teacher))
    mapping = _mapping(student, ours, teacher, theirs, ways.map)
    positions = _positions(student, ours, teacher, theirs, ways, mapping)
    if ways.by_rank:
        found = voice(teacher.name, store, ours, theirs, positions, mapping)
        return replace(found, spare=_spare(mapping, vocabulary(student.model)))
    inside = None
    if ways.inside and ways.align == "bytes" and ways.map == "pieces":
        table = piece_table(*_contents(teacher, student), student.tokenizer, mapping.numpy())
        inside = inside_of(table, theirs.cuts)
    return voice(teacher.name, store, ours, theirs, positions, mapping, inside)


def _spare(mapping: Tensor, size: int) -> Tensor:
    """Tokens of the student that none of the teacher's is."""
    return torch.ones(size, dtype=torch.bool).scatter(0, mapping[mapping >= 0], False).nonzero()[:, 0]


def _contents(teacher: Checkpoint, student: Checkpoint) -> tuple[Contents, Contents]:
    """What the ids of both stand for."""
    them, us = (token_bytes(each.tokenizer, vocabulary(each.model)) for each in (teacher, student))
    return them, us


def _same_cuts(ours: Read, theirs: Read) -> bool:
    return all(np.array_equal(one.ids, two.ids) for one, two in zip(ours.cuts, theirs.cuts, strict=True))


def _same_rows(student: Checkpoint, teacher: Checkpoint) -> Tensor | None:
    """One vocabulary, but perhaps other numbers of spare rows."""
    sizes = [vocabulary(each.model) for each in (student, teacher)]
    if sizes[0] == sizes[1]:
        return None
    rows = torch.arange(sizes[1])
    return torch.where(rows < sizes[0], rows, -1)


def _mapping(student: Checkpoint, ours: Read, teacher: Checkpoint, theirs: Read, kind: str) -> Tensor:
    """Of the teacher's vocabulary: special tokens by their roles, the others by what they spell."""
    them, us = _contents(teacher, student)
    if kind == "pieces":
        found = piece_map(them, us, student.tokenizer)
    elif kind == "edit":
        found = edit_map(them, us)
    elif kind == "statistics":
        counts: Counts = count(ours.cuts, theirs.cuts)
        found = statistics_map(counts, them, us)
    else:
        found = exact_map(them, us)
    roles = roles_map(teacher.tokenizer, student.tokenizer, vocabulary(teacher.model))
    return torch.from_numpy(first_of(roles, found))


def _positions(
    student: Checkpoint, ours: Read, teacher: Checkpoint, theirs: Read, ways: Ways, mapping: Tensor
) -> Sequence[np.ndarray]:
    """By text, for every position of the student the teacher's; by names where a tokenizer hides its bytes."""
    pairs = list(zip(ours.cuts, theirs.cuts, strict=True))
    if ways.align == "bytes" and all(one.exact and two.exact for one, two in pairs):
        return [align_bytes(one, two) for one, two in pairs]
    us, them = (surfaces(each.tokenizer, vocabulary(each.model)) for each in (student, teacher))
    known = None
    if ways.map == "edit":
        known = {them[place]: us[target] for place, target in enumerate(mapping.tolist()) if target >= 0}

    def by_names(one: Cut, two: Cut) -> np.ndarray:
        names = [us[n] for n in one.ids], [them[n] for n in two.ids]
        if ways.parity == "fusechat":
            return from_groups_fusechat(align_dp(*names, None, marked_distances, "fusechat"), *names)
        return from_groups_fusellm(align_dp(*names, None if ways.parity else BAND), *names, known)

    by_bytes = [ways.align == "bytes" and one.exact and two.exact for one, two in pairs]
    return [align_bytes(*pair) if plain else by_names(*pair) for plain, pair in zip(by_bytes, pairs, strict=True)]
