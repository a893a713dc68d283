"""The predictions of one teacher, aligned with the student: its stored predictions, which of its positions stands for
which of the student's, and a map of its vocabulary. The student itself may be one, with everything its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from remodeler.fusion.corpus import TokenizedTexts
from remodeler.fusion.sub_tokens import NO_PIECES, SubTokens, condition_on_pieces, position_depths
from remodeler.fusion.vocabularies import Collide, map_topk, map_topk_to
from remodeler.model.logprobs import TopK
from remodeler.training.teacher_store import Store, between, gold_logprobs, refuse_damaged


@dataclass(frozen=True, eq=False)
class TeacherPredictions:
    """One source of predictions, aligned with the student."""

    name: str
    store: Store
    rows: tuple[np.ndarray, ...]
    """By text [student's scored positions]: the scored position of the teacher that stands for it, -1 for none."""
    mapping: Tensor | None
    """[rows of its vocabulary] tokens of the student, -1 for none; None where the vocabularies are one."""
    losses: Tensor
    """[scored positions of all texts] nats."""
    starts: tuple[int, ...]
    """By text its first scored position."""
    bytes: np.ndarray
    """[texts] bytes of its scored tokens."""
    sub_tokens: SubTokens | None = None
    """Where it has predictions at sub-token positions, too."""
    depths: tuple[np.ndarray, ...] | None = None
    """By text [student's scored positions]: how many tokens the student has read since the teacher's position."""
    spare: Tensor | None = None
    """Where its other tokens go by rank: ids of the student that no token of the teacher has, and that stand for
    them."""

    @property
    def coverage(self) -> float:
        """Share of the student's positions that have one of the teacher's."""
        return float(np.mean(np.concatenate(self.rows) >= 0))

    def losses_of(self, text: int) -> Tensor:
        """Its losses in a text: [scored positions]."""
        stop = self.starts[text + 1] if text + 1 < len(self.starts) else len(self.losses)
        return self.losses[self.starts[text] : stop]

    def cost(self, rank_by: str, text: int) -> float:
        """Nats per byte of a text, or per token of its own."""
        own = self.losses_of(text)
        return float(own.sum()) / max(1, self.bytes[text] if rank_by == "byte" else len(own))


def align_predictions(
    name: str, store: Store, student: TokenizedTexts, own: TokenizedTexts, mapped: Sequence[np.ndarray],
    mapping: Tensor | None, sub_tokens: SubTokens | None = None,
) -> TeacherPredictions:  # fmt: skip
    """Align stored predictions with the student.

    Args:
        name: of the teacher.
        store: of its predictions for ``own.windows``, with the log-probabilities of the text's tokens.
        student: the texts as the student reads them.
        own: the texts as the teacher reads them.
        mapped: by text, for every position of the student the teacher's, -1 for none.
        mapping: of its vocabulary.
        sub_tokens: where it is to have predictions at sub-token positions, too.

    Raises:
        InputError: when a shard of the store is missing or damaged.
    """
    refuse_damaged(store)
    rows = [_scored_rows(*each) for each in zip(student.positions, own.positions, mapped, strict=True)]
    starts = (0, *store.ends[:-1])
    found = TeacherPredictions(name, store, tuple(rows), mapping, -gold_logprobs(store), starts, own.bytes)
    return found if sub_tokens is None else _add_sub_token_positions(found, student, sub_tokens)


def _scored_rows(ours: np.ndarray, theirs: np.ndarray, mapped: np.ndarray) -> np.ndarray:
    """Positions as numbers of scored positions; -1 where it isn't scored on the teacher's side."""
    wanted = mapped[ours]
    place = np.searchsorted(theirs, wanted)
    known = (wanted >= 0) & (place < len(theirs)) & (theirs[np.minimum(place, len(theirs) - 1)] == wanted)
    return np.where(known, place, -1)


def _add_sub_token_positions(
    teacher: TeacherPredictions, student: TokenizedTexts, sub_tokens: SubTokens
) -> TeacherPredictions:
    """Add those positions inside its tokens at which one of the k tokens that it names may stand."""
    most = sub_tokens.table.shape[1]
    pairs = [position_depths(rows, places, most) for rows, places in zip(teacher.rows, student.positions, strict=True)]
    rows, depths = (tuple(part) for part in zip(*pairs, strict=True))
    found = replace(teacher, rows=rows, sub_tokens=sub_tokens, depths=depths)
    kept, size = [], int(sub_tokens.table.max()) + 1
    for text, row in enumerate(found.rows):
        empty = aligned_topk(found, student, text, text + 1, size).logprobs[:, 0].isneginf().numpy()
        kept.append(np.where(depths[text] * empty, -1, row))
    return replace(found, rows=tuple(kept))


# At the student's positions -------------------------------------------------------------------------------------------


def aligned_topk(
    teacher: TeacherPredictions, student: TokenizedTexts, start: int, stop: int, size: int, collide: Collide = "sum"
) -> TopK:
    """Predictions at the student's scored positions in some texts, in the student's vocabulary.

    Rows of positions without a prediction are anything.
    """
    top, texts, base = between(teacher.store, start, stop), range(start, stop), teacher.starts[start]
    places = np.concatenate([np.maximum(teacher.rows[text], 0) + teacher.starts[text] - base for text in texts])
    found = top[torch.from_numpy(places)]
    if teacher.mapping is None:
        return found
    if teacher.spare is not None:
        return map_topk_to(found, assign_by_rank(teacher.mapping[found.ids], teacher.spare), size, collide)
    if teacher.sub_tokens is None or teacher.depths is None:
        return map_topk(found, teacher.mapping, size, collide)
    table = teacher.sub_tokens.table
    pieces = np.concatenate([_pieces_since(student, teacher.depths[text], text, table.shape[1]) for text in texts])
    deep = np.concatenate([teacher.depths[text] for text in texts])
    rows = zip(pieces.tolist(), deep.tolist(), strict=True)
    shares = [teacher.sub_tokens.share(row[:count]) for row, count in rows]
    tensors = torch.from_numpy(pieces), torch.from_numpy(deep), torch.tensor(shares)
    return condition_on_pieces(found, *tensors, table, size, collide)


def assign_by_rank(targets: Tensor, spare: Tensor) -> Tensor:
    """Spare ids for what has no target, in order: [tokens, k]; -1 where there are not enough."""
    lost = targets < 0
    place = lost.cumsum(1) - 1
    enough = lost & (place < len(spare))
    return torch.where(enough, spare[place.clamp(0, len(spare) - 1)] if len(spare) else targets, targets)


def _pieces_since(student: TokenizedTexts, depth: np.ndarray, text: int, most: int) -> np.ndarray:
    """The tokens that the student has read since the last common border: [positions, most], -1 behind them."""
    ids, columns = student.cuts[text].ids, np.arange(most)
    places = student.positions[text][:, None] - depth[:, None] + 1 + columns
    return np.where(columns < depth[:, None], ids[np.minimum(places, len(ids) - 1)], NO_PIECES)
