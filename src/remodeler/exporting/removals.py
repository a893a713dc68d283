"""Whether a removal log is of the model that it is exported with, and what it takes away of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from remodeler.errors import InputError
from remodeler.runs.records import read_json
from remodeler.runs.removals import WIDTHS_FILE, Change, Header, blocks_of, read_changes
from remodeler.runs.units import Block


@dataclass(frozen=True)
class Removals:
    """A removal log: what it says of the intact model, and what each step takes away and puts back."""

    path: Path
    header: Header
    steps: Sequence[Change]

    def blocks(self) -> list[Block]:
        """All that it names."""
        return [block for step in self.steps for block in (*step.removed, *step.restored)]


def read_removals(path: Path) -> Removals:
    """A removal log of a decoder.

    Raises:
        InputError: when it is none, not whole, or of another kind of model.
    """
    removals = Removals(path, *read_changes(path))
    other = next((block for block in removals.blocks() if block.kind == "cross"), None)
    if other is not None:
        raise InputError(f"{str(other)!r} is no attention or MLP of a decoder: only those are exported")
    return removals


def refuse_widths(removals: Removals, steps: int | None) -> None:
    """Raise where the log's model lost heads and channels too, unless only steps of the log are asked for."""
    beside = removals.path.with_name(WIDTHS_FILE)
    if steps is None and beside.is_file() and read_json(beside):
        alone = f", or give `removal_steps` {len(removals.steps)} for the blocks alone" if removals.steps else ""
        raise InputError(
            f"{beside} says that heads and channels went too, which can't be taken out of a GGUF file: export the "
            f"folder {beside.parent}{alone}"
        )


def gone_after(removals: Removals, steps: int | None) -> list[Block]:
    """What a removal log takes away, after all its steps or the first so many.

    Raises:
        InputError: when it is shorter.
    """
    if steps is not None and steps > len(removals.steps):
        raise InputError(f"`removal_steps` {steps} was given, {removals.path} has {len(removals.steps)}: lower it")
    return blocks_of(removals.steps[:steps])


def refuse_other_model(removals: Removals, depth: int, parameters: set[int], source: Path) -> None:
    """Raise where a log can't be of a model of this depth with so many numbers."""
    start = f"{removals.path} is the log of another model than {source}"
    beyond = next((block for block in removals.blocks() if block.layer >= depth), None)
    if beyond is not None:
        raise InputError(f"{start}: it removes {beyond} where there are {depth} layers: give the log of this model")
    blocks, numbers = removals.header.get("candidates"), removals.header.get("parameters")
    if isinstance(blocks, int) and blocks != 2 * depth:
        raise InputError(f"{start}: that had {blocks} blocks, here are {2 * depth}: give the log of this model")
    if isinstance(numbers, int) and numbers not in parameters:
        raise InputError(
            f"{start}: that had {numbers:,} parameters, here are {max(parameters):,}: give the log of this model"
        )
