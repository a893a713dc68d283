"""The removal log, ``removals.jsonl``: a header, then one line a step. Only this module knows how it is written.

It is the search's checkpoint, and the source of every cut. It is read in three ways: whole, as a search goes on with it
(:func:`read_log`); for what goes and comes back, where nobody may have measured anything (:func:`read_changes`); and
line by line as it stands, for pages that show what there is (:func:`read_log_lines`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from remodeler.errors import InputError
from remodeler.runs.records import append_line, drop_torn_line, read_lines, write_text
from remodeler.runs.units import Block, Unit

REMOVALS_FILE = "removals.jsonl"
WIDTHS_FILE = "widths.json"
"""Beside a log, the heads and channels that stay, where a search chose some of these too."""
IDENTITY: tuple[Literal["model", "texts", "options"], ...] = ("model", "texts", "options")
"""Parts of the header that a search must share with a log to go on with it."""


class Header(TypedDict, total=False):
    """Line 0: the intact model, and what identifies model, texts and options."""

    step: int  # 0
    perplexity: float
    parameters: int
    candidates: int  # blocks there are
    name: str  # of the model, as it was given
    model: dict[str, Any]
    texts: dict[str, Any]
    options: dict[str, Any]
    seconds: float


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
        value = math.inf if line["perplexity"] is None else line["perplexity"]
        return cls(**{**line, **vars(Change.parse(line)), "perplexity": value})


@dataclass(frozen=True)
class Change:
    """What one step takes away and puts back."""

    removed: Unit
    restored: Unit = ()

    @classmethod
    def parse(cls, line: dict[str, Any]) -> "Change":
        """From JSON."""
        return cls(*(tuple(map(Block.parse, line.get(key, ()))) for key in ("removed", "restored")))


# What is gone ---------------------------------------------------------------------------------------------------------


def blocks_of(steps: Iterable[Step | Change]) -> list[Block]:
    """Everything that is gone after some steps, in the order it went."""
    return reduce(_after, steps, [])


def _after(gone: list[Block], step: Step | Change) -> list[Block]:
    return [block for block in gone if block not in step.restored] + list(step.removed)


def units_of(steps: Iterable[Step | Change]) -> list[Unit]:
    """Everything that is gone after some steps, unit by unit, the oldest first."""
    units: list[Unit] = []
    for step in steps:
        units = [unit for unit in units if unit != step.restored] + [step.removed]
    return units


# Reading --------------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> tuple[Header, list[Step]]:
    """Header and steps of a removal log, with all that a search writes.

    Raises:
        InputError: when it is none, or not whole.
    """
    header, lines = _parts(path)
    try:
        whole = all(isinstance(header[part], dict) for part in IDENTITY) and math.isfinite(header["perplexity"])
        if not whole:
            raise TypeError("its header is not whole")
        _changes(path, lines)
        return header, [Step.parse(line) for line in lines]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a removal log of this version ({error}): search again") from None


def read_changes(path: Path) -> tuple[Header, list[Change]]:
    """What a removal log says of the intact model, as far as it does, and what each step takes away and puts back.

    Raises:
        InputError: when it is none, or its steps can't follow each other.
    """
    header, lines = _parts(path)
    return header, _changes(path, lines)


def _parts(path: Path) -> tuple[Header, list[Any]]:
    header, *lines = read_lines(path) or [None]
    if not isinstance(header, dict) or header.get("step") != 0:
        raise InputError(f"{path} is not a removal log: give the {REMOVALS_FILE} of a pruned model")
    return cast("Header", header), lines


def _changes(path: Path, lines: Sequence[Any]) -> list[Change]:
    found: list[Change] = []
    gone: list[Block] = []
    for number, line in enumerate(lines, 1):
        found.append(_change(path, number, line))
        if not set(found[-1].restored) <= set(gone):
            raise InputError(f"step {number} of {path} puts back what is there: restore the log")
        gone = _after(gone, found[-1])
        if len(set(gone)) < len(gone):
            raise InputError(f"step {number} of {path} removes what is gone: restore the log")
    return found


def _change(path: Path, number: int, line: Any) -> Change:
    if not isinstance(line, dict) or line.get("step") != number:
        raise InputError(f"{path} is not a removal log: step {number} was expected in line {number + 1}")
    named = line.get("removed"), line.get("restored", [])
    if not all(isinstance(blocks, list) and all(isinstance(each, str) for each in blocks) for blocks in named):
        raise InputError(f"{path} is not a removal log: lists of blocks were expected in line {number + 1}")
    return Change.parse(line)


# Writing, and going on ------------------------------------------------------------------------------------------------


def write_header(path: Path, header: Header) -> None:
    """Begin a log."""
    append_line(path, header)


def write_step(path: Path, step: Step) -> None:
    """Add a step to a log, and wait until it is on the disk."""
    append_line(path, step.line())


def copy_log(source: Path, target: Path, header: Header) -> None:
    """Start a search from what another one of the same identity found."""
    refuse_other(read_log(source)[0], header, source)
    write_text(target, source.read_text(encoding="utf-8"))


def copy_steps(source: Path, target: Path, count: int) -> None:
    """Copy a log up to a step."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    write_text(target, "".join(lines[: count + 1]))


def resume_log(path: Path, header: Header) -> tuple[Header, list[Step]] | None:
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
                    "give the same arguments to go on, or another `out`"
                )


# As it stands ---------------------------------------------------------------------------------------------------------

Part = Literal["perplexity", "parameters", "seconds", "model", "texts", "options"]


@dataclass(frozen=True)
class LogLine:
    """A line of a log as it stands, for a reader that shows what there is: any part may be missing, or odd."""

    values: Mapping[str, Any]

    def number(self, place: int) -> Any:
        """Its number; without one, its place in the log."""
        return self.values.get("step", place)

    @property
    def removed(self) -> list[str]:
        """Names of the blocks that it took away."""
        return [str(name) for name in self.values.get("removed") or []]

    @property
    def restored(self) -> list[str]:
        """Names of the blocks that it put back."""
        return [str(name) for name in self.values.get("restored") or []]

    @property
    def importance(self) -> Mapping[str, Any]:
        """By the names of units."""
        return self.values.get("importance") or {}

    def get(self, part: Part) -> Any:
        """Another part; None where it is missing."""
        return self.values.get(part)


def read_log_lines(path: Path) -> list[LogLine]:
    """The lines of a log; none where there is no log."""
    return [LogLine(line) for line in read_lines(path)] if path.exists() else []


def names_gone(lines: Iterable[LogLine]) -> Iterator[set[str]]:
    """After each line, the names of the blocks that are gone."""
    gone: set[str] = set()
    for line in lines:
        gone = gone - set(line.restored) | set(line.removed)
        yield gone


def perplexities(lines: Sequence[LogLine]) -> list[float] | None:
    """Of the intact model and after each step; infinite where a float can't hold it. None where a line says none."""
    if not all("perplexity" in line.values for line in lines):
        return None
    return [_perplexity(line.values["perplexity"]) for line in lines]


def _perplexity(value: Any) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else math.inf
