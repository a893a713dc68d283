"""Post: a text with its spans where they are known; read from any file of rows (see :mod:`remodeler.data.rows`).

A bad row raises InputError with the file and the row; with ``skip_bad`` it is left out and counted, and the others
keep their numbers. Rows are counted from 1; the id of a post, as SemEval counts, is one less, unless it has a unique
integer ``id`` of its own in a JSON file.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remodeler.auditing.formats.span_lists import read_spans
from remodeler.auditing.spans import Span
from remodeler.data.lines import Row, Values, format_names, short
from remodeler.data.rows import read_rows
from remodeler.errors import InputError, option

logger = logging.getLogger(__name__)

LONGEST = 500_000
"""Maximum number of characters of a text: a longer one is a misplaced file, not a post."""
JSON = (".jsonl", ".json")
_NO_ID = -1
"""Id of a row whose ``id`` is not an integer: then the ids of all rows are ignored."""


@dataclass(frozen=True)
class Post:
    """A text, and its spans where they are known: sorted, disjoint, inside the text."""

    text: str
    spans: tuple[Span, ...] | None = None
    row: int = 1
    file: str = ""
    own_id: int | None = None
    """The ``id`` of its row, where ids are unique in the file."""

    @property
    def id(self) -> int:
        """Its own id, else its row from 0, as SemEval counts."""
        return self.row - 1 if self.own_id is None else self.own_id


@dataclass(frozen=True)
class Reading:
    """Content of a file: its posts, and a message for each row that was left out."""

    posts: tuple[Post, ...]
    bad: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """Texts of the posts."""
        return [post.text for post in self.posts]

    @property
    def spans(self) -> list[list[Span]]:
        """Known spans, one list per post; empty where they are unknown."""
        return [list(post.spans or ()) for post in self.posts]


def read_posts(path: Path, known: bool = False, skip_bad: bool = False) -> Reading:
    """Read the posts of a file: rows with a ``text`` and, where known, ``spans``; in ``.txt`` one text per line.

    Args:
        path: ``.csv``, ``.jsonl``, ``.json``, ``.parquet`` or ``.txt``, in UTF-8.
        known: require spans in every post, in a format of :func:`~remodeler.auditing.formats.span_lists.read_spans`.
        skip_bad: leave bad rows out instead of stopping at the first.

    Raises:
        InputError: if the file can't be read or holds no good row, or for a bad row without ``skip_bad``.
    """
    if known and path.suffix.lower() == ".txt":
        raise InputError(f"{path} has texts without spans: give .csv or .jsonl")
    posts: list[Post] = []
    bad: list[str] = []
    for row in read_rows(path):
        try:
            posts.append(_post(path, row, known))
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{error}; or leave such rows out with {option('skip_bad', True)}") from None
            bad.append(str(error))
    if not posts:
        raise InputError(
            f"{path} holds no good row ({len(bad)} bad; the first: {bad[0]})" if bad else f"{path} is empty"
        )
    return Reading(_with_unique_ids(posts), tuple(bad))


def whole_id(value: Any) -> int | None:
    """Parse a non-negative integer, also from a text of digits or ``4.0``; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    return int(value) if whole and value >= 0 else None


def _with_unique_ids(posts: Sequence[Post]) -> tuple[Post, ...]:
    """Drop the posts' own ids where one is not an integer or occurs twice."""
    ids = {post.id for post in posts}
    if len(ids) == len(posts) and _NO_ID not in ids:
        return tuple(posts)
    return tuple(replace(post, own_id=None) for post in posts)


def log_bad_rows(path: Path, bad: Sequence[str]) -> None:
    """Log a warning about rows that were left out."""
    if bad:
        logger.warning(f"{len(bad)} bad rows of {path} were left out; the first: {bad[0]}")


def _post(path: Path, row: Row, known: bool) -> Post:
    values, where = row.checked(), f"row {row.number} of {path}"
    lacking = [name for name in ("text", "spans")[: 1 + known] if name not in values]
    if lacking:
        raise InputError(f"{where} has {format_names(values)} and no {' and no '.join(lacking)}: name them so")
    text = values["text"]
    if not isinstance(text, str):
        raise InputError(f"{where} has {short(text)} instead of a text: write a text")
    if len(text) > LONGEST:
        raise InputError(f"{where} has {len(text):,} characters, at most {LONGEST:,} are allowed: split it")
    spans = tuple(read_spans(values["spans"], text, where)) if known else None
    return Post(text, spans, row.number, str(path), _own_id(path, values))


def _own_id(path: Path, values: Values) -> int | None:
    """The id of a row of JSON; in a table the column may mean anything."""
    if path.suffix.lower() not in JSON or values.get("id") is None:
        return None
    found = whole_id(values["id"])
    return _NO_ID if found is None else found
