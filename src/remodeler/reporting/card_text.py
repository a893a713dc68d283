"""Names and texts inside Markdown, letter by letter: nothing in them is a link, a tag or the end of a cell."""

import re
from collections.abc import Sequence

from remodeler.runs.streams import visible

SIGNS = re.compile(r"[\\`*\[\]<>#&~]|(?<!\w)_|_(?!\w)|:(?=\w+:)")
"""What Markdown, or GitHub's, might act on."""


def plain(text: str) -> str:
    """A text that reads as it is."""
    return SIGNS.sub(lambda found: "\\" + found.group(), visible(text))


def code(value: object) -> str:
    """A value between backticks: more of them than it has in a row itself."""
    text = visible(str(value))
    fence = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def fenced(lines: Sequence[str], language: str = "") -> list[str]:
    """A block of code, line by line."""
    fence = "`" * max(3, _longest_run("\n".join(lines)) + 1)
    return [fence + language, *lines, fence]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, line by line; a cell ends where it should."""
    return [
        "| " + " | ".join(visible(cell).replace("|", r"\|") for cell in row) + " |"
        for row in (head, ["---"] * len(head), *rows)
    ]


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
