"""What a person sees while a verb works: notes, tables, and a progress bar with the time left.

Tables and lines that are results go to stdout; notes and bars go to stderr. Texts are shown letter by letter: nothing
in a path, a name or a text is markup, and control characters stand as escapes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from remodeler.runs.streams import spelled, visible


class Screen(Console):
    """A terminal on which a text is its letters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)

    @property
    def encoding(self) -> str:
        """Of the stream that is written at the moment; rich takes UTF-8 for granted."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()


OUT = Screen()
ERR = Screen(stderr=True)
WIDEST = 10**5
"""Columns of a line that goes to a file or to another program: as many as it needs."""

Listen = Callable[[float, str], None]
"""Is told the share done, and a few words."""


def unheard(share: float, words: str) -> None:
    """Nobody listens."""


def shown(text: str, screen: Screen) -> Text:
    """A text as a terminal shows it: its letters on one line, in characters that the terminal has."""
    return Text(spelled(visible(text), screen.encoding))


def note(text: str) -> None:
    """One line about what is going on."""
    ERR.print(shown(text, ERR))


def say(text: str) -> None:
    """One line of a result, on stdout."""
    OUT.print(shown(text, OUT))


@contextmanager
def bar(title: str) -> Iterator[Listen]:
    """A progress bar; call it with the share done and a few words."""
    columns = (
        SpinnerColumn("line" if ERR.options.ascii_only else "dots"),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}", style="dim", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as progress:
        task = progress.add_task(shown(title, ERR).plain, total=1.0, words="")

        def hear(share: float, words: str) -> None:
            progress.update(task, completed=share, words=shown(words, ERR).plain)

        yield hear


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is words, the others are numbers.

    A terminal that is too narrow gets a line a row instead; elsewhere a table is as wide as it needs to be.
    """
    drawn = Table(title=shown(title, OUT) if title else None, title_justify="left")
    for index, name in enumerate(columns):
        drawn.add_column(shown(name, OUT), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*(shown(cell, OUT) for cell in row))
    width = Measurement.get(OUT, OUT.options.update(width=WIDEST), drawn).maximum
    if not OUT.is_terminal:
        Screen(width=width).print(drawn)
    elif width <= OUT.width:
        OUT.print(drawn)
    else:
        _say_rows(columns, rows)


def _say_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table without its lines: what a row is of, then each number behind the name of its column."""
    for row in rows:
        cells = [f"{name} {cell}".strip() for name, cell in zip(columns[1:], row[1:], strict=True) if cell]
        say(f"{row[0]}: {', '.join(cells)}")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
