"""What may go next: blocks, layers, or pairs that leave a stock model."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from remodeler.blocks import Anatomy, Block
from remodeler.layerwise import order
from remodeler.pruning.criteria import Method
from remodeler.pruning.sweep import Unit

Shape = Literal["free", "standard"]


def candidates(
    anatomy: Anatomy, unit: str, shape: Shape = "free", removed: Sequence[Block] = (), method: Method | None = None
) -> list[Unit]:
    """What may go next, in the official code's order: all attentions, then all MLPs, ascending; ties go to the first.

    The last attention stays, since a model without any could not be written, and what the method protects.
    """
    gone = set(removed)
    left = [block for block in anatomy.blocks() if block not in gone]
    units = _pairs(anatomy, left) if shape == "standard" else _units(left, unit)
    attentions = sum(block.kind == "attention" for block in left)
    units = [each for each in units if sum(block.kind == "attention" for block in each) < max(attentions, 1)]
    if method is None:
        return units
    safe = method.protect(anatomy, removed)
    return [each for each in units if not any(block.layer in safe for block in each)]


def _units(left: Sequence[Block], unit: str) -> list[Unit]:
    if unit != "layer":
        return [(block,) for block in left if unit in ("block", block.kind)]
    numbers = sorted({block.layer for block in left})
    layers = [tuple(sorted(block for block in left if block.layer == number)) for number in numbers]
    return [blocks for blocks in layers if {"attention", "mlp"} <= {block.kind for block in blocks}]


def _pairs(anatomy: Anatomy, left: Sequence[Block]) -> list[Unit]:
    """Neighbours in the order of computation, an attention and an MLP: without any two the rest still pairs up."""
    sequence = sorted(left, key=lambda block: order(anatomy, block))
    pairs = [(a, b) for a, b in pairwise(sequence) if {a.kind, b.kind} == {"attention", "mlp"}]
    return [(a, b) for a, b in pairs if a.layer == b.layer or not anatomy.parallel]


def longest_path(anatomy: Anatomy, unit: str, shape: Shape, method: Method | None = None) -> list[Unit]:
    """A path that removes as much as any: MLPs first, since the last attention must stay."""
    path: list[Unit] = []
    removed: list[Block] = []
    while units := candidates(anatomy, unit, shape, removed, method):
        path.append(units[-1])
        removed += units[-1]
    return path
