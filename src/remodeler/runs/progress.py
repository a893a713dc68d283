"""Progress of long work: one type of callback, a bar for people, lines for log files; durations in words."""

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars

from remodeler.runs.terminal import ERR, letters

log = logging.getLogger(__name__)

Progress = Callable[[float, str], None]
"""Receives the share done, from 0 to 1, and a few words on where the work stands; both may be shown."""
SECONDS_BETWEEN_LINES = 30.0
"""Where there is no terminal; the first line comes after as many."""


def silent(share: float, words: str) -> None:
    """Show nothing."""


def part(progress: Progress, begin: float, width: float, words: str = "") -> Progress:
    """Progress of a part of the work, which begins at a share of the whole and has a width; with words of its own."""
    return lambda share, inner: progress(min(1.0, begin + width * share), words or inner)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on a terminal or in a notebook, else a line in the log now and then; of several processes, the first's."""
    from remodeler.runs import processes  # imports torch, which nothing needs that shows no progress

    if not processes.is_first():
        yield silent
    elif ERR.is_terminal or _in_notebook():
        with _bar(title) as progress:
            yield progress
    else:
        yield ProgressLines(title)


def on_terminal() -> bool:
    """Whether somebody may see bars of other libraries."""
    return ERR.is_terminal


def _in_notebook() -> bool:
    """Whether rich can draw in a notebook, for which it needs ipywidgets."""
    return ERR.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    columns = (
        bars.SpinnerColumn("line" if ERR.options.ascii_only else "dots"),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TextColumn("{task.fields[words]}", style="dim", markup=False),
        bars.TimeElapsedColumn(),
        bars.TextColumn("left"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=ERR, transient=True) as drawn:
        task = drawn.add_task(letters(title, ERR).plain, total=1.0, words="")
        yield lambda share, words: drawn.update(task, completed=share, words=letters(words, ERR).plain)


class ProgressLines:
    """Progress as lines of a log: the share done, the time left and where the work stands.

    The time left is of the pace since the first call: a run that is resumed has not done its earlier part now.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.title, self.clock = title, clock
        self.logged = clock()
        self.first: tuple[float, float] | None = None
        """Share and time of the first call."""

    def __call__(self, share: float, words: str) -> None:
        """Log a line, where the last one is long ago."""
        now = self.clock()
        self.first = self.first or (share, now)
        if now - self.logged >= SECONDS_BETWEEN_LINES:
            self.logged = now
            log.info(", ".join([f"{self.title}: {share:.0%}", *self._left(share, now), *([words] if words else [])]))

    def _left(self, share: float, now: float) -> list[str]:
        assert self.first
        begun, start = self.first
        return [f"about {duration((now - start) * (1 - share) / (share - begun))} left"] if share > begun else []


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
