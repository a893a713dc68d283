"""A teacher's predictions at sub-token positions: inside its own tokens, where the student's are shorter.

At a byte inside a token of the teacher, the teacher has not read as much as the student, and the papers leave such
positions out, or teach the text's own token there. But the teacher has predicted which tokens may stand there, and the
student has read the first pieces of one of them: what is left are those tokens whose pieces begin so, and the piece
that each continues with (our addition). With the student's pieces s_1 .. s_d read since the last common border, and
pi(v) the pieces into which the student cuts a token v,

    p(next piece is c) = sum of p(v) with pi(v) = s_1 .. s_d c ..  /  sum of p(v) with pi(v) = s_1 .. s_d ..

At d = 0 that is the map by pieces. A token that ends where the student stands predicts nothing of what follows: its
mass is in the rest. Of the mass outside the k only a share fits; it is taken to be as large as among all tokens of the
texts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from remodeler.fusion.offsets import Cut, Ints, backend_tokenizer, spelling
from remodeler.fusion.vocabularies import Collide, Contents, map_topk_to
from remodeler.model.logprobs import TopK

LEAST = 0.5
"""Least count of a beginning among the tokens of the texts: 0 would leave no rest."""
NO_PIECES = -1


@dataclass(frozen=True, eq=False)
class SubTokens:
    """A teacher's tokens as pieces of the student's, and counts of their beginnings."""

    table: Tensor
    """[teacher rows, depth] int32 pieces of every token, -1 behind the last."""
    begins: Counter[tuple[int, ...]]
    """Number of tokens of the texts that begin with some pieces."""
    tokens: int
    """Number of tokens of the texts."""

    def share(self, pieces: Sequence[int]) -> float:
        """Share of the texts' tokens that begin with some pieces; 1 for no pieces."""
        return max(self.begins[tuple(pieces)], LEAST) / self.tokens if pieces else 1.0


def piece_table(teacher: Contents, student: Contents, tokenizer: PreTrainedTokenizerBase, mapping: Ints) -> Tensor:
    """The pieces of every token, the first of them by the map: [teacher rows, depth] int32, -1 behind the last.

    Args:
        teacher: what its ids stand for.
        student: what its ids stand for.
        tokenizer: the student's.
        mapping: by pieces, or a finer one.
    """
    model, spelled = backend_tokenizer(tokenizer).model, spelling(tokenizer)
    found = []
    for part, first in zip(teacher, mapping.tolist(), strict=True):
        name = spelled.write(part) if part and part != (student[first] if first >= 0 else None) else None
        pieces = [each.id for each in model.tokenize(name)] if name else []
        whole = b"".join(student[each] or b"" for each in pieces) == part
        found.append(pieces if whole and pieces[:1] == [first] else [first])
    table = np.full((len(found), max(map(len, found))), NO_PIECES, dtype=np.int32)
    for place, pieces in enumerate(found):
        table[place, : len(pieces)] = pieces
    return torch.from_numpy(table)


def count_beginnings(table: Tensor, texts: Sequence[Cut]) -> SubTokens:
    """Count the beginnings of the tokens of some texts, as the teacher reads them."""
    begins: Counter[tuple[int, ...]] = Counter()
    counts = Counter(np.concatenate([each.ids for each in texts]).tolist())
    for place, count in counts.items():
        pieces = [piece for piece in table[place].tolist() if piece >= 0]
        for size in range(1, len(pieces) + 1):
            begins[tuple(pieces[:size])] += count
    return SubTokens(table, begins, counts.total())


def position_depths(rows: Ints, positions: Ints, most: int) -> tuple[Ints, Ints]:
    """Every position by the last common one: [positions] the teacher's row, and the distance to it.

    Args:
        rows: [positions] the teacher's, -1 for none.
        positions: [positions] where the scored positions stand in the text: they may leave something out.
        most: a position farther behind has no row.
    """
    places = np.arange(len(rows))
    last = np.maximum.accumulate(np.where(rows >= 0, places, -1))
    behind = places - last
    near = (last >= 0) & (behind < most) & (positions - positions[np.maximum(last, 0)] == behind)
    return np.where(near, rows[np.maximum(last, 0)], -1), np.where(near, behind, 0)


def condition_on_pieces(
    top: TopK, read: Tensor, depth: Tensor, share: Tensor, table: Tensor, size: int, collide: Collide
) -> TopK:
    """Condition predictions on the pieces that the student has read since, in the student's vocabulary.

    Args:
        top: [positions, k] at the last common border.
        read: [positions, depth] the pieces that were read since, then anything.
        depth: [positions] how many.
        share: [positions] of the mass outside the k that fits them.
        table: of the pieces of every token.
        size: of the student's vocabulary.
        collide: as in `map_topk`.

    Returns:
        [positions, min(k, size)]; a row in which no token fits has no mass but the rest.
    """
    paths = table[top.ids].long()  # [positions, k, depth]
    behind = torch.arange(table.shape[1], device=depth.device) >= depth[:, None]
    fits = ((paths == read[:, None]) | behind[:, None]).all(2)
    following = paths.gather(2, depth[:, None, None].expand(-1, paths.shape[1], 1))[:, :, 0]
    logprobs = top.logprobs.masked_fill(~fits, -torch.inf)
    rest = top.rest + share.log()
    whole = torch.logaddexp(logprobs.logsumexp(1), rest)
    found = TopK(top.ids, logprobs - whole[:, None], rest - whole)
    return map_topk_to(found, following.masked_fill(~fits, NO_PIECES), size, collide)
