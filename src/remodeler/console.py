"""What a person sees while a verb works: notes, tables, and a progress bar with the time left.

Tables go to stdout; notes and bars go to stderr.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
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

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)

Listen = Callable[[float, str], None]
"""Is told the share done, and a few words."""


def unheard(share: float, words: str) -> None:
    """Nobody listens."""


def note(text: str) -> None:
    """One line about what is going on."""
    ERR.print(text, markup=False)


@contextmanager
def bar(title: str) -> Iterator[Listen]:
    """A progress bar; call it with the share done and a few words."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("[dim]{task.fields[words]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as progress:
        task = progress.add_task(title, total=1.0, words="")

        def hear(share: float, words: str) -> None:
            progress.update(task, completed=share, words=words)

        yield hear


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is words, the others are numbers."""
    drawn = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        drawn.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        drawn.add_row(*row)
    OUT.print(drawn)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
