"""What the command shows: results on stdout, as lines and tables; notes and the library's messages on stderr.

Texts are shown letter by letter: nothing in a path, a name or a text is markup, and control characters stand as
escapes.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.measure import Measurement
from rich.table import Table

from remodeler.runs.terminal import ERR, Screen, letters

OUT = Screen()
WIDEST = 10**5
"""Columns of a line that goes to a file or to another program: as many as it needs."""


def note(text: str) -> None:
    """One line about what is going on."""
    ERR.print(letters(text, ERR))


def say(text: str) -> None:
    """One line of a result, on stdout."""
    OUT.print(letters(text, OUT))


class NoteHandler(logging.Handler):
    """Shows messages of the library as notes, above a progress bar where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.wording: Callable[[str], str] = str

    def emit(self, record: logging.LogRecord) -> None:
        """Show one."""
        try:
            note(self.wording(self.format(record)))
        except Exception:  # as every handler of logging: no message ends the work
            self.handleError(record)


@contextmanager
def messages_as_notes() -> Iterator[None]:
    """Show what the library logs; its logger is as before afterwards."""
    library, handler = logging.getLogger("remodeler"), NoteHandler()
    before = library.level, library.propagate
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    library.propagate = False  # other libraries give the root logger handlers: nothing is shown twice
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(before[0])
        library.propagate = before[1]


@contextmanager
def notes_as(wording: Callable[[str], str]) -> Iterator[None]:
    """Show what the library logs in other words meanwhile."""
    handlers = [each for each in logging.getLogger("remodeler").handlers if isinstance(each, NoteHandler)]
    for each in handlers:
        each.wording = wording
    try:
        yield
    finally:
        for each in handlers:
            each.wording = str


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is words, the others are numbers.

    A terminal that is too narrow gets a line a row instead; elsewhere a table is as wide as it needs to be.
    """
    drawn = Table(title=letters(title, OUT) if title else None, title_justify="left")
    for index, name in enumerate(columns):
        drawn.add_column(letters(name, OUT), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*(letters(cell, OUT) for cell in row))
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
