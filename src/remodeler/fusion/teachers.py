"""What each model predicts for the texts: read by its own tokenizer, stored once, aligned with the student."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.fusion.config import MatchConfig
from remodeler.fusion.corpus import RenderedText, TokenizedTexts, tokenize_texts
from remodeler.fusion.counts import Counts, count, statistics_map
from remodeler.fusion.cross_tokenizer import (
    align_bytes,
    align_dp,
    from_groups_fusechat,
    from_groups_fusellm,
    marked_distances,
)
from remodeler.fusion.offsets import Cut
from remodeler.fusion.sub_tokens import count_beginnings, piece_table
from remodeler.fusion.teacher_predictions import TeacherPredictions, align_predictions
from remodeler.fusion.vocabularies import (
    Contents,
    edit_map,
    exact_map,
    merge_maps,
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


def store_predictions(model: Checkpoint, own: TokenizedTexts, k: int, folder: Path) -> Store:
    """Store a model's predictions for its windows, where they are not in the folder yet."""
    with progress_bar(f"predicting with {Path(model.name).name}") as progress:
        return make(model.anatomy, fingerprint(model.model), own.windows, k, folder, progress, gold=True)


def predict_own(student: Checkpoint, own: TokenizedTexts, k: int, folder: Path) -> TeacherPredictions:
    """The student's own predictions, at every position."""
    positions = [np.arange(len(each)) for each in own.cuts]
    return align_predictions(student.name, store_predictions(student, own, k, folder), own, own, positions, None)


def predict(
    student: Checkpoint, ours: TokenizedTexts, teacher: Checkpoint, texts: Sequence[RenderedText], length: int, k: int,
    folder: Path, matching: MatchConfig, by_rank: bool = False,
) -> TeacherPredictions:  # fmt: skip
    """A teacher's predictions, aligned with the student.

    Args:
        student: whose positions and tokens count.
        ours: the texts as it reads them.
        teacher: the model that predicts.
        texts: what both read.
        length: tokens per window, at most.
        k: tokens of each prediction.
        folder: of its predictions.
        matching: how positions and tokens are matched.
        by_rank: whether tokens that the student lacks keep their ranks.
    """
    theirs = tokenize_texts(texts, teacher.tokenizer, length, vocabulary(teacher.model))
    store = store_predictions(teacher, theirs, k, folder)
    if student.tokenizer.get_vocab() == teacher.tokenizer.get_vocab() and _same_cuts(ours, theirs):
        same = [np.arange(len(each)) for each in ours.cuts]
        return align_predictions(teacher.name, store, ours, theirs, same, _same_rows(student, teacher))
    mapping = _map_vocabulary(student, ours, teacher, theirs, matching.map)
    positions = _align_positions(student, ours, teacher, theirs, matching, mapping)
    if by_rank:
        found = align_predictions(teacher.name, store, ours, theirs, positions, mapping)
        return replace(found, spare=_spare(mapping, vocabulary(student.model)))
    sub_tokens = None
    if matching.inside and matching.align == "bytes" and matching.map == "pieces":
        table = piece_table(*_contents(teacher, student), student.tokenizer, mapping.numpy())
        sub_tokens = count_beginnings(table, theirs.cuts)
    return align_predictions(teacher.name, store, ours, theirs, positions, mapping, sub_tokens)


def _spare(mapping: Tensor, size: int) -> Tensor:
    """Tokens of the student that none of the teacher's is."""
    return torch.ones(size, dtype=torch.bool).scatter(0, mapping[mapping >= 0], False).nonzero()[:, 0]


def _contents(teacher: Checkpoint, student: Checkpoint) -> tuple[Contents, Contents]:
    """What the ids of both stand for."""
    them, us = (token_bytes(each.tokenizer, vocabulary(each.model)) for each in (teacher, student))
    return them, us


def _same_cuts(ours: TokenizedTexts, theirs: TokenizedTexts) -> bool:
    return all(np.array_equal(one.ids, two.ids) for one, two in zip(ours.cuts, theirs.cuts, strict=True))


def _same_rows(student: Checkpoint, teacher: Checkpoint) -> Tensor | None:
    """One vocabulary, but perhaps other numbers of spare rows."""
    sizes = [vocabulary(each.model) for each in (student, teacher)]
    if sizes[0] == sizes[1]:
        return None
    rows = torch.arange(sizes[1])
    return torch.where(rows < sizes[0], rows, -1)


def _map_vocabulary(
    student: Checkpoint, ours: TokenizedTexts, teacher: Checkpoint, theirs: TokenizedTexts, kind: str
) -> Tensor:
    """Map the teacher's vocabulary: special tokens by their roles, the others by what they spell."""
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
    return torch.from_numpy(merge_maps(roles, found))


def _align_positions(
    student: Checkpoint,
    ours: TokenizedTexts,
    teacher: Checkpoint,
    theirs: TokenizedTexts,
    matching: MatchConfig,
    mapping: Tensor,
) -> Sequence[np.ndarray]:
    """By text, for every position of the student the teacher's; by token names where a tokenizer hides its bytes."""
    pairs = list(zip(ours.cuts, theirs.cuts, strict=True))
    if matching.align == "bytes" and all(one.exact and two.exact for one, two in pairs):
        return [align_bytes(one, two) for one, two in pairs]
    us, them = (surfaces(each.tokenizer, vocabulary(each.model)) for each in (student, teacher))
    known = None
    if matching.map == "edit":
        known = {them[place]: us[target] for place, target in enumerate(mapping.tolist()) if target >= 0}

    def by_names(one: Cut, two: Cut) -> np.ndarray:
        names = [us[n] for n in one.ids], [them[n] for n in two.ids]
        if matching.parity == "fusechat":
            return from_groups_fusechat(align_dp(*names, None, marked_distances, "fusechat"), *names)
        return from_groups_fusellm(align_dp(*names, None if matching.parity else BAND), *names, known)

    by_bytes = [matching.align == "bytes" and one.exact and two.exact for one, two in pairs]
    return [align_bytes(*pair) if plain else by_names(*pair) for plain, pair in zip(by_bytes, pairs, strict=True)]
