"""Prompts from files and data sets: what each row asks, as the usual collections name it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remodeler.auditing.posts import READERS, read_posts
from remodeler.errors import InputError
from remodeler.sources import Row, rows_of

KEYS = ("prompt", "text", "instruction", "question", "turns", "goal")
"""Tried in this order; RealToxicityPrompts has ``prompt.text``, MT-Bench a list of turns, whose first is taken."""
BY_LINES = (".csv", ".txt")
"""Read as posts are: a row or a line each."""
MANY = 10**6
"""Rows of a hub data set that are looked at, at most."""


def read_prompts(source: str, words: int | None = None, limit: int | None = None, skip_bad: bool = False) -> list[str]:
    """The prompts of a source, blank ones left out.

    Args:
        source: ``.txt`` (a line each), ``.csv`` (the column ``text``), ``.jsonl``, ``.json``, ``.parquet``, or
            ``hf:NAME[:CONFIG][:SPLIT]``.
        words: keep the first words of each.
        limit: keep the first prompts.
        skip_bad: leave out rows that can't be read.

    Raises:
        InputError: for a source that can't be read or has no prompt.
    """
    if (words is not None and words < 1) or (limit is not None and limit < 1):
        raise InputError(f"--prompt-words {words} and --limit {limit} were given: each must be at least 1")
    suffix = Path(source).suffix.lower()
    if suffix in BY_LINES and suffix in READERS:
        found: Sequence[str] = read_posts(Path(source), skip_bad=skip_bad).texts
    else:
        rows = rows_of(source, min(limit or MANY, MANY))
        found = [prompt(source, number, row) for number, row in enumerate(rows, 1)]
    found = [each for each in found if each.strip()][:limit]
    if not found:
        raise InputError(f"{source} has no prompts: give a file with at least one")
    return [beginning(each, words) for each in found] if words else list(found)


def prompt(source: str, number: int, row: Row) -> str:
    """What a row asks.

    Raises:
        InputError: when it asks nothing.
    """
    value: Any = next((row[key] for key in KEYS if row.get(key) is not None), None)
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        raise InputError(f"row {number} of {source} has no prompt: name it {', '.join(KEYS[:4])}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"row {number} of {source} is not UTF-8 text: convert the file") from None
    return value


def beginning(text: str, words: int) -> str:
    """A text up to the end of its n-th word; whole where it has fewer."""
    ends = [match.end() for _, match in zip(range(words), re.finditer(r"\S+", text), strict=False)]
    return text[: ends[-1]] if len(ends) == words else text
