"""Post: a text with what is known of its spans; read from any file of rows (see :mod:`remodeler.data.rows`).

A bad row is refused in one sentence with the file and the row; with ``skip_bad`` it is left out and counted, and the
others keep their numbers. Rows are counted from 1; the id of a post, as SemEval counts, is one less, unless it has an
``id`` of its own in a file of JSON: a whole number, which no other row has.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remodeler.auditing.formats.span_lists import read_spans
from remodeler.auditing.spans import Span
from remodeler.data.lines import Row, Values, listed, short
from remodeler.data.rows import read_rows
from remodeler.errors import InputError

logger = logging.getLogger(__name__)

LONGEST = 500_000
"""Characters of a text: what is longer is a file in the wrong place, not a post."""
JSON = (".jsonl", ".json")
_NO_ID = -1
"""Of a row whose id is no whole number: then no row's counts."""


@dataclass(frozen=True)
class Post:
    """A text, and its spans where they are known: sorted, disjoint, inside the text."""

    text: str
    spans: tuple[Span, ...] | None = None
    row: int = 1
    file: str = ""
    own_id: int | None = None
    """The ``id`` of its row, where that tells the posts of the file apart."""

    @property
    def id(self) -> int:
        """The number that a submission gives it: its own, else its row's from 0, as SemEval counts."""
        return self.row - 1 if self.own_id is None else self.own_id


@dataclass(frozen=True)
class Reading:
    """What a file holds: its posts, and a sentence for each row that was left out."""

    posts: tuple[Post, ...]
    bad: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The texts alone."""
        return [post.text for post in self.posts]

    @property
    def spans(self) -> list[list[Span]]:
        """The known spans, one list a post; none where they are not known."""
        return [list(post.spans or ()) for post in self.posts]


def read_posts(path: Path, known: bool = False, skip_bad: bool = False) -> Reading:
    """The posts of a file: a row has a ``text`` and, where they are known, ``spans``; of ``.txt`` a text is a line.

    Args:
        path: ``.csv``, ``.jsonl``, ``.json``, ``.parquet`` or ``.txt``, in UTF-8.
        known: whether every post must have spans, as :func:`~remodeler.auditing.formats.span_lists.read_spans` reads
            them.
        skip_bad: leave bad rows out instead of stopping at the first.

    Raises:
        InputError: for a file that can't be read or holds no good row, and for a bad row without ``skip_bad``.
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
                raise InputError(f"{error}; or leave such rows out with --skip-bad") from None
            bad.append(str(error))
    if not posts:
        raise InputError(
            f"{path} holds no good row ({len(bad)} bad; the first: {bad[0]})" if bad else f"{path} is empty"
        )
    return Reading(_told_apart(posts), tuple(bad))


def whole_id(value: Any) -> int | None:
    """A whole number from 0, also as a text of digits or as ``4.0``; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    return int(value) if whole and value >= 0 else None


def _told_apart(posts: Sequence[Post]) -> tuple[Post, ...]:
    """The same with their rows' numbers for ids, where some row's own is no number or is another's too."""
    ids = {post.id for post in posts}
    if len(ids) == len(posts) and _NO_ID not in ids:
        return tuple(posts)
    return tuple(replace(post, own_id=None) for post in posts)


def tell_bad(path: Path, bad: Sequence[str]) -> None:
    """Say what was left out of a file."""
    if bad:
        logger.warning(f"{len(bad)} bad rows of {path} were left out; the first: {bad[0]}")


def _post(path: Path, row: Row, known: bool) -> Post:
    values, where = row.checked(), f"row {row.number} of {path}"
    lacking = [name for name in ("text", "spans")[: 1 + known] if name not in values]
    if lacking:
        raise InputError(f"{where} has {listed(values)} and no {' and no '.join(lacking)}: name them so")
    text = values["text"]
    if not isinstance(text, str):
        raise InputError(f"{where} has {short(text)} in the place of its text: write a text")
    if len(text) > LONGEST:
        raise InputError(f"{where} has {len(text):,} characters, at most {LONGEST:,} were expected: cut it into parts")
    spans = tuple(read_spans(values["spans"], text, where)) if known else None
    return Post(text, spans, row.number, str(path), _own_id(path, values))


def _own_id(path: Path, values: Values) -> int | None:
    """The id that a row of JSON has; in a table the column may be anybody's."""
    if path.suffix.lower() not in JSON or values.get("id") is None:
        return None
    found = whole_id(values["id"])
    return _NO_ID if found is None else found
