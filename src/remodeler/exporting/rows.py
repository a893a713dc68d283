"""What is left of a model, as the layers of a runtime: each an attention, an MLP, or one behind the other.

Blocks lie in the residual stream one behind the other, so an attention may take the next MLP that is left, whichever
layer it comes from. A runtime whose layers are (attention, MLP) then has as few halves to leave out as can be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from remodeler.runs.units import Block


@dataclass(frozen=True)
class Row:
    """A layer as a runtime sees it: the source layers of its attention and of its MLP, None for none."""

    attention: int | None
    mlp: int | None

    @property
    def whole(self) -> bool:
        """Whether it has both."""
        return self.attention is not None and self.mlp is not None


def rows_of(blocks: Iterable[Block]) -> list[Row]:
    """Rows for blocks in the order in which they are computed."""
    found: list[Row] = []
    waiting: int | None = None
    for block in blocks:
        if block.kind == "mlp":
            found.append(Row(waiting, block.layer))
            waiting = None
        else:
            if waiting is not None:
                found.append(Row(waiting, None))
            waiting = block.layer
    return found if waiting is None else [*found, Row(waiting, None)]


def left(depth: int, gone: Iterable[Block]) -> list[Block]:
    """The blocks of a model of some depth that are not gone, in order."""
    removed = set(gone)
    every = [block for layer in range(depth) for block in (Block(layer, "attention"), Block(layer, "mlp"))]
    return [block for block in every if block not in removed]


def plain(rows: Sequence[Row]) -> bool:
    """Whether an ordinary model has these layers."""
    return all(row.whole for row in rows)
