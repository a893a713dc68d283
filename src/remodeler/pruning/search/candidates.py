"""What may go next: blocks, layers, or what leaves a model that some runtime's layers hold."""

from collections.abc import Sequence

from remodeler.model.blocks import Anatomy
from remodeler.model.layerwise import order
from remodeler.model.pairing import SHAPES, may_pair
from remodeler.pruning.config import Shape
from remodeler.pruning.methods import Method
from remodeler.runs.units import Block, Unit


def candidates(
    anatomy: Anatomy, unit: str, shape: Shape = "free", removed: Sequence[Block] = (), method: Method | None = None
) -> list[Unit]:
    """What may go next, in the official code's order: all attentions, then all MLPs, ascending; ties go to the first.

    Where the shape is not free, neighbouring pairs follow. The last attention stays, since a model without any could
    not be written (of encoder and decoder each its own), and what the method protects.
    """
    gone = set(removed)
    left = [block for block in anatomy.blocks() if block not in gone]
    units = _units(anatomy, left, unit) if shape == "free" else _units_of_shape(anatomy, left, shape)
    units = [each for each in units if may_go(anatomy, each, removed)]
    if method is None:
        return units
    safe = method.protect(anatomy, removed)
    return [each for each in units if not any(block.layer in safe for block in each)]


def may_go(anatomy: Anatomy, unit: Unit, removed: Sequence[Block]) -> bool:
    """Whether an attention is left when a unit goes besides."""
    return all(block.kind != anatomy.needed for block in unit) or anatomy.keeps_needed([*removed, *unit])


def _units(anatomy: Anatomy, left: Sequence[Block], unit: str) -> list[Unit]:
    if unit != "layer":
        return [(block,) for block in left if unit in ("block", block.kind)]
    numbers = sorted({block.layer for block in left})
    layers = [tuple(sorted(block for block in left if block.layer == number)) for number in numbers]
    return [blocks for blocks in layers if _is_whole(anatomy, blocks)]


def _is_whole(anatomy: Anatomy, blocks: Unit) -> bool:
    """Whether these are all blocks of a layer that mixes tokens and has an MLP, or of one that is a single block."""
    kinds = [block.kind for block in blocks]
    whole = kinds == anatomy.kinds(blocks[0].layer)
    return whole and (anatomy.family.traced or {"attention", "mlp"} <= {*kinds})


def _units_of_shape(anatomy: Anatomy, left: Sequence[Block], shape: Shape) -> list[Unit]:
    """Blocks, and neighbouring pairs whose MLP can't go alone, without which what is left has the shape."""
    sequence = sorted(left, key=lambda block: order(anatomy, block))
    alone = set(_leaving(sequence, 1, shape))
    pairs = [pair for pair in _leaving(sequence, 2, shape) if may_pair(pair[0], pair[1], anatomy.parallel)]
    bound = [pair for pair in pairs if not any(block.kind == "mlp" and (block,) in alone for block in pair)]
    return [*(unit for unit in _units(anatomy, left, "block") if unit in alone), *bound]


def _leaving(sequence: Sequence[Block], count: int, shape: Shape) -> list[Unit]:
    """So many neighbours each, without which a sequence has the shape."""
    fits, starts = SHAPES[shape], range(len(sequence) - count + 1)
    return [tuple(sequence[at : at + count]) for at in starts if fits([*sequence[:at], *sequence[at + count :]])]


def longest_path(anatomy: Anatomy, unit: str, shape: Shape, method: Method | None = None) -> list[Unit]:
    """A path of as many steps as any, which removes as much: MLPs first, since the last attention must stay."""
    path: list[Unit] = []
    removed: list[Block] = []
    while units := candidates(anatomy, unit, shape, removed, method):
        path.append(min(reversed(units), key=len))
        removed += path[-1]
    return path
