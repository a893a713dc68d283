"""Prompts from files and data sets: what each row asks, as the usual collections name it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.auditing.posts import read_posts
from remodeler.errors import InputError
from remodeler.sources import Row, rows_of

KEYS = ("prompt", "text", "instruction", "question", "turns", "goal")
"""Tried in this order; RealToxicityPrompts has ``prompt.text``, MT-Bench a list of turns, whose first is taken."""
BY_LINES = (".csv", ".txt")
"""Read as posts are: a row or a line each."""
MANY = 10**6
"""Rows of a hub data set that are looked at, at most."""


@dataclass(frozen=True)
class Given:
    """Texts or prompts, the rows they stand in, from 0, and a sentence for each row that was left out."""

    texts: tuple[str, ...]
    rows: tuple[int, ...]
    bad: tuple[str, ...] = ()


def read_texts(path: Path, limit: int | None = None, skip_bad: bool = False) -> Given:
    """Texts to audit, the first ``limit`` of them; see :func:`~remodeler.auditing.posts.read_posts`."""
    reading = read_posts(path, skip_bad=skip_bad)
    posts = reading.posts[:limit]
    return Given(tuple(post.text for post in posts), tuple(post.id for post in posts), reading.bad)


def read_prompts(source: str, words: int | None = None, limit: int | None = None, skip_bad: bool = False) -> Given:
    """The prompts of a source, blank ones left out.

    Args:
        source: ``.txt`` (a line each), ``.csv`` (the column ``text``), ``.jsonl``, ``.json``, ``.parquet``, or
            ``hf:NAME[:CONFIG][:SPLIT]``.
        words: keep the first words of each.
        limit: keep the first prompts.
        skip_bad: leave out rows that have no prompt, or, of ``.txt`` and ``.csv``, can't be read.

    Raises:
        InputError: for a source that can't be read or has no prompt.
    """
    if (words is not None and words < 1) or (limit is not None and limit < 1):
        raise InputError(f"--prompt-words {words} and --limit {limit} were given: each must be at least 1")
    by_lines = Path(source).suffix.lower() in BY_LINES
    found = read_texts(Path(source), None, skip_bad) if by_lines else _from_rows(source, limit, skip_bad)
    kept = [pair for pair in zip(found.texts, found.rows, strict=True) if pair[0].strip()][:limit]
    if not kept:
        raise InputError(f"{source} has no prompts: give a file with at least one")
    texts, rows = zip(*kept, strict=True)
    return Given(tuple(beginning(text, words) for text in texts) if words else texts, rows, found.bad)


def _from_rows(source: str, limit: int | None, skip_bad: bool) -> Given:
    """What each row asks, blank or not."""
    texts: dict[int, str] = {}
    bad: list[str] = []
    for number, row in enumerate(rows_of(source, min(limit or MANY, MANY)), 1):
        try:
            texts[number - 1] = prompt(source, number, row)
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{error}; or leave such rows out with --skip-bad") from None
            bad.append(str(error))
    return Given(tuple(texts.values()), tuple(texts), tuple(bad))


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
