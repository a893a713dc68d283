"""Read texts and prompts from files and data sets, by the usual names of their columns."""

import re
from dataclasses import dataclass
from pathlib import Path

from remodeler.auditing.formats.posts import read_posts
from remodeler.data.prompts import read_numbered, require_prompt
from remodeler.errors import InputError, option


@dataclass(frozen=True)
class Inputs:
    """Texts or prompts, their rows, from 0, and a message for each row that was left out."""

    texts: tuple[str, ...]
    rows: tuple[int, ...]
    bad: tuple[str, ...] = ()


def read_texts(path: Path, limit: int | None = None, skip_bad: bool = False) -> Inputs:
    """Read texts to audit, at most ``limit``; see :func:`~remodeler.auditing.formats.posts.read_posts`."""
    reading = read_posts(path, skip_bad=skip_bad)
    posts = reading.posts[:limit]
    return Inputs(tuple(post.text for post in posts), tuple(post.row - 1 for post in posts), reading.bad)


def read_prompts(source: str, words: int | None = None, limit: int | None = None, skip_bad: bool = False) -> Inputs:
    """Read the prompts of a source, blank ones left out.

    Args:
        source: ``.txt`` (one per line), ``.csv``, ``.jsonl``, ``.json``, ``.parquet``, or
            ``hf:NAME[:CONFIG][:SPLIT]``.
        words: number of first words of each to use.
        limit: number of first prompts to use.
        skip_bad: leave out rows that have no prompt or can't be read.

    Raises:
        InputError: if the source can't be read or has no prompt.
    """
    found = _from_rows(source, limit, skip_bad)
    kept = [pair for pair in zip(found.texts, found.rows, strict=True) if pair[0].strip()][:limit]
    if not kept:
        left_out = f" ({len(found.bad)} bad rows; the first: {found.bad[0]})" if found.bad else ""
        raise InputError(f"{source} has no prompts{left_out}: give a file with at least one")
    texts, rows = zip(*kept, strict=True)
    return Inputs(tuple(first_words(text, words) for text in texts) if words else texts, rows, found.bad)


def _from_rows(source: str, limit: int | None, skip_bad: bool) -> Inputs:
    """Prompt of each row, blank or not."""
    texts: dict[int, str] = {}
    bad: list[str] = []
    for row in read_numbered(source, limit):
        try:
            texts[row.number - 1] = require_prompt(source, row.number, row.checked())
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{error}; or leave such rows out with {option('skip_bad', True)}") from None
            bad.append(str(error))
    return Inputs(tuple(texts.values()), tuple(texts), tuple(bad))


def first_words(text: str, words: int) -> str:
    """A text up to the end of its n-th word; all of it where it has fewer."""
    ends = [match.end() for _, match in zip(range(words), re.finditer(r"\S+", text), strict=False)]
    return text[: ends[-1]] if len(ends) == words else text
