"""The one error that is the user's: the input is wrong, not the program."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

MOST = 220
"""Characters of a library's message that are shown."""


class InputError(Exception):
    """What was given, what was expected, what to do: one sentence.

    The command line prints it without a traceback and exits with code 2.
    """


def option(name: str, value: object = None) -> str:
    """An option in a message: `` `ratio` ``, or `` `method='ties'` `` with its value.

    The command line shows it as the flag that a person types: ``--ratio``, ``--method ties``.
    """
    return f"`{name}`" if value is None else f"`{name}={value!r}`"


def one_line(error: BaseException) -> str:
    """A library's message on one line, short enough to read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MOST else text[: MOST - 3] + "..."


TOO_MANY_FILES = "too many files are open already: raise the limit (ulimit -n)"
MEMORY_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
"""What torch and the system say where there is none left, on a CPU as a plain RuntimeError."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in MEMORY_SIGNS)


def quantity(count: int, noun: str) -> str:
    """A number of things: ``1 step``, ``2,000 steps``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class LeftOut(Counter[str]):
    """How much was left out, by reason, and of each reason the first row, from 1, where rows are known."""

    def __init__(self, *given: Any, **counts: int) -> None:
        super().__init__(*given, **counts)
        self.first: dict[str, int] = {}

    def add(self, reason: object, row: int) -> None:
        """Count a row."""
        self[str(reason)] += 1
        self.first[str(reason)] = min(row, self.first.get(str(reason), row))


def count_reasons(dropped: Mapping[str, int], most: int | None = None) -> str:
    """How much was left out for which reason, in words; the commonest ``most`` reasons where that is given."""
    rows = dropped.first if isinstance(dropped, LeftOut) else {}
    found = sorted((reason, count) for reason, count in dropped.items() if count)
    rest = 0
    if most is not None and len(found) > most:
        found.sort(key=lambda each: -each[1])
        rest = sum(count for _, count in found[most:])
        found = found[:most]
    parts = [f"{count:,} ({reason}{_first(rows.get(reason), count)})" for reason, count in found]
    return ", ".join([*parts, *([f"{rest:,} (for other reasons)"] if rest else [])]) or "nothing"


def _first(row: int | None, count: int) -> str:
    if row is None:
        return ""
    return f"; row {row}" if count == 1 else f"; row {row} first"
