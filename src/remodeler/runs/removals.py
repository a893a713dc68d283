"""The removal log, ``removals.jsonl``: a header, then one line a step.

It is the search's checkpoint, and the source of every cut.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.runs.records import drop_torn_line, read_lines, write_text
from remodeler.runs.units import Block, Unit

REMOVALS_FILE = "removals.jsonl"
IDENTITY = ("model", "texts", "options")
"""Parts of the header that a search must share with a log to go on with it."""
Header = dict[str, Any]
"""Line 0: perplexity and parameters of the intact model, and what identifies model, texts and options."""


@dataclass(frozen=True)
class Step:
    """One removal."""

    step: int
    removed: Unit
    importance: dict[str, float | None]
    """Of every candidate; None where it was not finite."""
    perplexity: float
    """Of the model after this step, on the calibration text; infinite, in JSON null, where a float can't hold it."""
    parameters: int
    seconds: float
    restored: Unit = ()
    """What was put back for it, in the refinement of a path."""
    windows: dict[str, int] | None = None
    """After a race: how many windows every candidate saw before it was dropped."""

    def line(self) -> dict[str, Any]:
        """As JSON."""
        units = {key: [str(block) for block in getattr(self, key)] for key in ("removed", "restored")}
        left = {key: value for key, value in {**vars(self), **units}.items() if value not in ([], None)}
        return left | {"perplexity": self.perplexity if math.isfinite(self.perplexity) else None}

    @classmethod
    def parse(cls, line: dict[str, Any]) -> "Step":
        """From JSON."""
        units = {key: tuple(Block.parse(text) for text in line.get(key, ())) for key in ("removed", "restored")}
        value = math.inf if line["perplexity"] is None else line["perplexity"]
        return cls(**{**line, **units, "perplexity": value})


def blocks_of(steps: Sequence[Step]) -> list[Block]:
    """Everything that is gone after some steps, in the order it went."""
    gone: list[Block] = []
    for step in steps:
        gone = [block for block in gone if block not in step.restored] + list(step.removed)
    return gone


def read_log(path: Path) -> tuple[Header, list[Step]]:
    """Header and steps of a removal log."""
    lines = read_lines(path)
    if not lines or not isinstance(lines[0], dict) or lines[0].get("step") != 0:
        raise InputError(f"{path} is not a removal log: give the {REMOVALS_FILE} of a pruned model")
    try:
        whole = all(isinstance(lines[0][part], dict) for part in IDENTITY) and math.isfinite(lines[0]["perplexity"])
        if not whole:
            raise TypeError("its header is not whole")
        return lines[0], [Step.parse(line) for line in lines[1:]]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a removal log of this version ({error}): search again") from None


def copy_log(source: Path, target: Path, header: Header) -> None:
    """Start a search from what another one of the same identity found."""
    refuse_other(read_log(source)[0], header, source)
    write_text(target, source.read_text(encoding="utf-8"))


def take_up(path: Path, header: Header) -> tuple[Header, list[Step]] | None:
    """What an interrupted search left, or None when it left nothing.

    Raises:
        InputError: when the log belongs to another model, other texts or other options.
    """
    if not path.exists():
        return None
    drop_torn_line(path)
    if not path.read_bytes():
        return None
    found, steps = read_log(path)
    refuse_other(found, header, path)
    return found, steps


def refuse_other(found: Header, header: Header, path: Path) -> None:
    """Raise when a log belongs to another search, and say what differs."""
    for part in IDENTITY:
        before, wanted = found.get(part) or {}, header.get(part) or {}
        for key in {**before, **wanted}:
            old, new = before.get(key), wanted.get(key)
            if old != new:
                raise InputError(
                    f"{path} belongs to a search with another {part} ({key} was {old!r}, is {new!r}): "
                    "give the same arguments to go on, or another --out"
                )
