"""A removal log, ``removals.jsonl``, as an export reads it: which blocks are gone, and whether it is of this model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.exporting.rows import ATTENTION, MLP, Part
from remodeler.runs.records import read_json, read_lines

KINDS = (ATTENTION, MLP)
WIDTHS_FILE = "widths.json"
"""Beside a log, the heads and channels that stay, where a search chose some of these too."""


@dataclass(frozen=True)
class Removals:
    """A removal log: what it says of the intact model, and what each step takes away and puts back."""

    path: Path
    header: dict[str, Any]
    steps: Sequence[tuple[list[Part], list[Part]]]


def read_removals(path: Path) -> Removals:
    """A removal log.

    Raises:
        InputError: when it is none, or not whole.
    """
    header, *lines = read_lines(path) or [None]
    if not isinstance(header, dict) or header.get("step") != 0:
        raise InputError(f"{path} is not a removal log: give the removals.jsonl of a pruned model")
    return Removals(path, header, [_step(path, number, line) for number, line in enumerate(lines, 1)])


def _step(path: Path, number: int, line: Any) -> tuple[list[Part], list[Part]]:
    if not isinstance(line, dict) or line.get("step") != number:
        raise InputError(f"{path} is not a removal log: step {number} was expected in line {number + 1}")
    removed, restored = line.get("removed"), line.get("restored", [])
    if not isinstance(removed, list) or not isinstance(restored, list):
        raise InputError(f"{path} is not a removal log: lists of blocks were expected in line {number + 1}")
    return [part_of(text) for text in removed], [part_of(text) for text in restored]


def part_of(text: Any) -> Part:
    """A block as a log names it."""
    kind, _, layer = str(text).partition(".")
    if kind not in KINDS or not (layer.isascii() and layer.isdecimal()) or len(layer) > 9:
        raise InputError(f"{str(text)[:40]!r} is no attention or MLP of a decoder: only those are exported")
    return int(layer), kind


def refuse_widths(removals: Removals, steps: int | None) -> None:
    """Raise where the log's model lost heads and channels too, unless only steps of the log are asked for."""
    beside = removals.path.with_name(WIDTHS_FILE)
    if steps is None and beside.is_file() and read_json(beside):
        alone = f", or give --steps {len(removals.steps)} for the blocks alone" if removals.steps else ""
        raise InputError(
            f"{beside} says that heads and channels went too, which can't be taken out of a GGUF file: export the "
            f"folder {beside.parent}{alone}"
        )


def gone_after(removals: Removals, steps: int | None) -> list[Part]:
    """What a removal log takes away, after all its steps or the first so many.

    Raises:
        InputError: when it is shorter, takes away what is gone, or puts back what is there.
    """
    if steps is not None and steps > len(removals.steps):
        raise InputError(f"--steps {steps} was given, {removals.path} has {len(removals.steps)}: lower it")
    gone: list[Part] = []
    for number, (removed, restored) in enumerate(removals.steps[:steps], 1):
        if not set(restored) <= set(gone):
            raise InputError(f"step {number} of {removals.path} puts back what is there: restore the log")
        gone = [part for part in gone if part not in restored] + removed
        if len(set(gone)) < len(gone):
            raise InputError(f"step {number} of {removals.path} removes what is gone: restore the log")
    return gone


def refuse_other_model(removals: Removals, depth: int, parameters: set[int], source: Path) -> None:
    """Raise where a log can't be of a model of this depth with so many numbers."""
    start = f"{removals.path} is the log of another model than {source}"
    every = [part for step in removals.steps for parts in step for part in parts]
    beyond = next((part for part in every if part[0] >= depth), None)
    if beyond is not None:
        block = f"{beyond[1]}.{beyond[0]}"
        raise InputError(f"{start}: it removes {block} where there are {depth} layers: give the log of this model")
    blocks, numbers = removals.header.get("candidates"), removals.header.get("parameters")
    if isinstance(blocks, int) and blocks != 2 * depth:
        raise InputError(f"{start}: that had {blocks} blocks, here are {2 * depth}: give the log of this model")
    if isinstance(numbers, int) and numbers not in parameters:
        raise InputError(
            f"{start}: that had {numbers:,} parameters, here are {max(parameters):,}: give the log of this model"
        )
