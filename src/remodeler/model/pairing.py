"""Which MLP goes with which attention in what is left of a model: functions over blocks, which know no model.

Blocks lie in the residual stream one behind the other, so an attention may take the next MLP that is left, whichever
layer it comes from. Those are *rows*: the layers of an ordinary model, of GGUF and of DeciLM. A runtime whose layers
are (attention, MLP) then has as few halves to leave out as can be. The *packed* form pairs by source layer instead, so
that no number of a layer is lost: an attention keeps its own MLP, and one without runs behind the attention before it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from remodeler.runs.units import MIXING, Block, Kind

# Rows -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A layer as a runtime sees it: the source layers of its attention, or mixer, and of its MLP, None for none.

    A cross-attention, for which no such runtime has a place, is a row without either.
    """

    attention: int | None
    mlp: int | None

    @property
    def whole(self) -> bool:
        """Whether it has both."""
        return self.attention is not None and self.mlp is not None


def rows_of(blocks: Iterable[Block]) -> list[Row]:
    """Rows for blocks in the order in which they are computed."""
    return [Row(*halves) for halves in _halves(blocks)]


def _halves(blocks: Iterable[Block]) -> Iterator[tuple[int | None, int | None]]:
    """An attention and the MLP right behind it; None where one of them stands alone."""
    waiting: int | None = None
    for block in blocks:
        if block.kind == "mlp":
            yield waiting, block.layer
        elif waiting is not None:
            yield waiting, None
        if block.kind == "cross":
            yield None, None
        waiting = block.layer if block.kind in MIXING else None
    if waiting is not None:
        yield waiting, None


def left(depth: int, gone: Iterable[Block]) -> list[Block]:
    """The blocks of a decoder of some depth that are not gone, in the order in which they are computed."""
    removed = set(gone)
    every = [block for layer in range(depth) for block in (Block(layer, "attention"), Block(layer, "mlp"))]
    return [block for block in every if block not in removed]


def pairs_of(blocks: Iterable[Block]) -> list[tuple[int, int]] | None:
    """(attention's layer, MLP's layer) of every row, where all are whole; else None."""
    found: list[tuple[int, int]] = []
    for attention, mlp in _halves(blocks):
        if attention is None or mlp is None:
            return None
        found.append((attention, mlp))
    return found


def plain(rows: Sequence[Row]) -> bool:
    """Whether an ordinary model has these layers."""
    return all(row.whole for row in rows)


def may_pair(one: Block, other: Block, parallel: bool) -> bool:
    """Whether two neighbours are an attention and an MLP; in layers that run both in ``parallel``, of one layer."""
    kinds = {one.kind, other.kind}
    return "mlp" in kinds and not kinds.isdisjoint(MIXING) and (one.layer == other.layer or not parallel)


# Shapes that a search keeps -------------------------------------------------------------------------------------------


def _standard(blocks: Iterable[Block]) -> bool:
    """Layers of a stock model."""
    return pairs_of(blocks) is not None


def _deci(blocks: Sequence[Block]) -> bool:
    """Layers as DeciLM has them: an MLP behind every attention, an attention at the start."""
    begins = bool(blocks) and blocks[0].kind == "attention"
    return begins and all(mlp is not None for _, mlp in _halves(blocks))


SHAPES: dict[str, Callable[[Sequence[Block]], bool]] = {"standard": _standard, "deci": _deci}
"""What the blocks that are left, in the order in which they are computed, have to be; ``free`` asks for nothing."""


# Packed layers --------------------------------------------------------------------------------------------------------

Kept = Sequence[tuple[int, Collection[Kind]]]
"""Source layers of which something is left, ascending, and the kinds of blocks left in each; as ``config.packing``."""


@dataclass(frozen=True)
class Place:
    """Where a source layer lies in a packed model."""

    index: int
    """Of the packed layer."""
    side: Literal["", "pre", "post"] = ""
    """For a layer without its attention, whether it runs before or behind that of the packed layer."""
    number: int = 0
    """Among those on its side."""

    def __str__(self) -> str:
        """The path below the list of layers."""
        return f"{self.index}.{self.side}.{self.number}" if self.side else str(self.index)


def packed_places(kept: Kept) -> dict[int, Place]:
    """Where each source layer lies: one packed layer for each attention, and orphans beside it.

    An orphan runs behind the attention before it; before the first attention it runs in front of that.
    """
    places: dict[int, Place] = {}
    index, orphans = -1, 0
    for layer, kinds in kept:
        if any(kind in MIXING for kind in kinds):
            index, orphans = index + 1, 0
            places[layer] = Place(index)
        else:
            places[layer] = Place(max(index, 0), "pre" if index < 0 else "post", orphans)
            orphans += 1
    return places
