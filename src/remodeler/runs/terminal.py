"""The terminal behind stderr: bars and messages go there, and a text is shown letter by letter.

Nothing in a path, a name or a text is markup, and control characters stand as escapes.
"""

from typing import Any

from rich.console import Console
from rich.text import Text

from remodeler.runs.streams import spell, visible


class Screen(Console):
    """A terminal on which a text is its letters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)

    @property
    def encoding(self) -> str:
        """Of the stream that is written at the moment; rich takes UTF-8 for granted."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()


ERR = Screen(stderr=True)


def letters(text: str, screen: Screen) -> Text:
    """A text as a terminal shows it: its letters on one line, in characters that the terminal has."""
    return Text(spell(visible(text), screen.encoding))
