"""A voice: one source of predictions, as the student can hear it.

That is its stored predictions, which of its positions stands for which of the student's, and a map of its vocabulary.
The student itself may be one, with everything its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from remodeler.fusion.corpus import Read
from remodeler.fusion.inside import NO_PIECES, Inside, depths, narrowed
from remodeler.fusion.vocabularies import Collide, carried, carry
from remodeler.model.logprobs import TopK
from remodeler.training.teacher_store import Store, between, gold_logprobs, refuse_damaged


@dataclass(frozen=True, eq=False)
class Voice:
    """One source of predictions, as the student can hear it."""

    name: str
    store: Store
    rows: tuple[np.ndarray, ...]
    """By text [student's scored positions]: the scored position of the voice that stands for it, -1 for none."""
    mapping: Tensor | None
    """[rows of its vocabulary] tokens of the student, -1 for none; None where the vocabularies are one."""
    losses: Tensor
    """[scored positions of all texts] nats."""
    starts: tuple[int, ...]
    """By text its first scored position."""
    bytes: np.ndarray
    """[texts] bytes of its scored tokens."""
    inside: Inside | None = None
    """Where it speaks inside its tokens, too."""
    depths: tuple[np.ndarray, ...] | None = None
    """By text [student's scored positions]: how many tokens the student has read since the voice's position."""
    spare: Tensor | None = None
    """Where its other tokens go by rank: ids of the student that no token of the voice has, and that stand for them."""

    @property
    def coverage(self) -> float:
        """Share of the student's positions that have one of the voice's."""
        return float(np.mean(np.concatenate(self.rows) >= 0))

    def of(self, text: int) -> Tensor:
        """Its losses in a text: [scored positions]."""
        stop = self.starts[text + 1] if text + 1 < len(self.starts) else len(self.losses)
        return self.losses[self.starts[text] : stop]

    def cost(self, score: str, text: int) -> float:
        """Nats a byte of a text, or a token of its own."""
        own = self.of(text)
        return float(own.sum()) / max(1, self.bytes[text] if score == "byte" else len(own))


def voice(
    name: str, store: Store, student: Read, own: Read, mapped: Sequence[np.ndarray], mapping: Tensor | None,
    inside: Inside | None = None,
) -> Voice:  # fmt: skip
    """A voice from its stored predictions and an alignment.

    Args:
        name: of the model.
        store: of its predictions for ``own.windows``, with the log-probabilities of what came.
        student: the texts as the student reads them.
        own: the texts as the voice reads them.
        mapped: by text, for every position of the student the voice's, -1 for none.
        mapping: of its vocabulary.
        inside: where it is to speak inside its tokens, too.

    Raises:
        InputError: when a shard of the store is missing or damaged.
    """
    refuse_damaged(store)
    rows = [_rows(*each) for each in zip(student.positions, own.positions, mapped, strict=True)]
    starts = (0, *store.ends[:-1])
    found = Voice(name, store, tuple(rows), mapping, -gold_logprobs(store), starts, own.bytes)
    return found if inside is None else _speaking_inside(found, student, inside)


def _rows(ours: np.ndarray, theirs: np.ndarray, mapped: np.ndarray) -> np.ndarray:
    """Positions as numbers of scored positions; -1 where it isn't scored on the voice's side."""
    wanted = mapped[ours]
    place = np.searchsorted(theirs, wanted)
    known = (wanted >= 0) & (place < len(theirs)) & (theirs[np.minimum(place, len(theirs) - 1)] == wanted)
    return np.where(known, place, -1)


def _speaking_inside(each: Voice, student: Read, inside: Inside) -> Voice:
    """The same voice, with those positions inside its tokens at which one of the k it names may stand."""
    most = inside.table.shape[1]
    pairs = [depths(rows, places, most) for rows, places in zip(each.rows, student.positions, strict=True)]
    found = replace(each, rows=tuple(rows for rows, _ in pairs), inside=inside, depths=tuple(deep for _, deep in pairs))
    kept, size = [], int(inside.table.max()) + 1
    for text, rows in enumerate(found.rows):
        silent = heard(found, student, text, text + 1, size).logprobs[:, 0].isneginf().numpy()
        kept.append(np.where((found.depths or ())[text] * silent, -1, rows))
    return replace(found, rows=tuple(kept))


# What is heard --------------------------------------------------------------------------------------------------------


def heard(each: Voice, student: Read, start: int, stop: int, size: int, collide: Collide = "sum") -> TopK:
    """What a voice predicts at the student's scored positions in some texts, in the student's vocabulary.

    Rows of positions at which it is silent are anything.
    """
    top, texts, base = between(each.store, start, stop), range(start, stop), each.starts[start]
    places = np.concatenate([np.maximum(each.rows[text], 0) + each.starts[text] - base for text in texts])
    found = top[torch.from_numpy(places)]
    if each.mapping is None:
        return found
    if each.spare is not None:
        return carried(found, by_rank(each.mapping[found.ids], each.spare), size, collide)
    if each.inside is None or each.depths is None:
        return carry(found, each.mapping, size, collide)
    table = each.inside.table
    said = np.concatenate([_read_since(student, each.depths[text], text, table.shape[1]) for text in texts])
    deep = np.concatenate([each.depths[text] for text in texts])
    shares = [each.inside.share(row[:count]) for row, count in zip(said.tolist(), deep.tolist(), strict=True)]
    tensors = torch.from_numpy(said), torch.from_numpy(deep), torch.tensor(shares)
    return narrowed(found, *tensors, table, size, collide)


def by_rank(targets: Tensor, spare: Tensor) -> Tensor:
    """Spare ids for what has no target, in order: [tokens, k]; -1 where there are not enough."""
    lost = targets < 0
    place = lost.cumsum(1) - 1
    enough = lost & (place < len(spare))
    return torch.where(enough, spare[place.clamp(0, len(spare) - 1)] if len(spare) else targets, targets)


def _read_since(student: Read, depth: np.ndarray, text: int, most: int) -> np.ndarray:
    """The tokens that the student has read since the last common border: [positions, most], -1 behind them."""
    ids, columns = student.cuts[text].ids, np.arange(most)
    places = student.positions[text][:, None] - depth[:, None] + 1 + columns
    return np.where(columns < depth[:, None], ids[np.minimum(places, len(ids) - 1)], NO_PIECES)
