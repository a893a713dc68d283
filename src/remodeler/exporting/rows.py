"""What is left of a model, as the layers of a runtime: each an attention, an MLP, or one behind the other.

Blocks lie in the residual stream one behind the other, so an attention may take the next MLP that is left, whichever
layer it comes from. A runtime whose layers are (attention, MLP) then has as few halves to leave out as can be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ATTENTION, MLP = "attention", "mlp"
Part = tuple[int, str]
"""A block by its layer in the source and its kind."""


@dataclass(frozen=True)
class Row:
    """A layer as a runtime sees it: the source layers of its attention and of its MLP, None for none."""

    attention: int | None
    mlp: int | None

    @property
    def whole(self) -> bool:
        """Whether it has both."""
        return self.attention is not None and self.mlp is not None


def rows_of(parts: Iterable[Part]) -> list[Row]:
    """Rows for blocks in the order in which they are computed."""
    found: list[Row] = []
    waiting: int | None = None
    for layer, kind in parts:
        if kind == MLP:
            found.append(Row(waiting, layer))
            waiting = None
        else:
            if waiting is not None:
                found.append(Row(waiting, None))
            waiting = layer
    return found if waiting is None else [*found, Row(waiting, None)]


def left(depth: int, gone: Iterable[Part]) -> list[Part]:
    """The blocks of a model of some depth that are not gone, in order."""
    removed = set(gone)
    every = [(layer, kind) for layer in range(depth) for kind in (ATTENTION, MLP)]
    return [part for part in every if part not in removed]


def plain(rows: Sequence[Row]) -> bool:
    """Whether an ordinary model has these layers."""
    return all(row.whole for row in rows)
