"""Post: a text with what is known of its spans; read from CSV, JSON lines, or lines of text.

A bad row is refused in one sentence with the file and the row; with ``skip_bad`` it is left out and counted, and the
others keep their numbers. Rows are counted from 1, the header of a CSV excluded; the id of a post, as SemEval counts,
is one less. A text with a lone surrogate or bytes that are no UTF-8 is refused too: no tokenizer takes it.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from remodeler.auditing.spans import Span, of_characters
from remodeler.console import note
from remodeler.errors import InputError

LONGEST = 500_000
"""Characters of a text: what is longer is a file in the wrong place, not a post."""


@dataclass(frozen=True)
class Post:
    """A text, and its spans where they are known: sorted, disjoint, inside the text."""

    text: str
    spans: tuple[Span, ...] | None = None
    row: int = 1
    file: str = ""

    @property
    def id(self) -> int:
        """The number that a SemEval submission gives it: rows from 0."""
        return self.row - 1


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


Row = tuple[int, dict[str, Any] | InputError]
"""Its number, and its values or what is wrong with it."""


def read_posts(path: Path, known: bool = False, skip_bad: bool = False) -> Reading:
    """The posts of a ``.csv`` (columns ``text`` and ``spans``), ``.jsonl`` (the same keys) or ``.txt`` (a text a line).

    Args:
        path: the file, in UTF-8.
        known: whether every post must have spans: a list of characters, of ``[start, end]`` or of
            ``{"start", "end"}``, whose ends are excluded.
        skip_bad: leave bad rows out instead of stopping at the first.

    Raises:
        InputError: for a file that can't be read or holds no good row, and for a bad row without ``skip_bad``.
    """
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{path} is of no known kind: give {', '.join(READERS)}")
    posts: list[Post] = []
    bad: list[str] = []
    with _opened(path) as file:
        for number, row in read(path, file, known):
            try:
                posts.append(_post(path, number, row, known))
            except InputError as error:
                if not skip_bad:
                    raise InputError(f"{error}; or leave such rows out with --skip-bad") from None
                bad.append(str(error))
    if not posts:
        raise InputError(
            f"{path} holds no good row ({len(bad)} bad; the first: {bad[0]})" if bad else f"{path} is empty"
        )
    return Reading(tuple(posts), tuple(bad))


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The file as text; bytes that are no UTF-8 become surrogates, so that the row which has them can be named."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: check the path") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): give a file") from None
    finally:
        csv.field_size_limit(limit)


def tell_bad(path: Path, bad: Sequence[str]) -> None:
    """Say what was left out of a file."""
    if bad:
        note(f"{len(bad)} bad rows of {path} were left out; the first: {bad[0]}")


# One reader a kind of file --------------------------------------------------------------------------------------------


def _csv(path: Path, file: TextIO, known: bool) -> Iterator[Row]:
    reader = csv.reader(file, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        raise InputError(f"the header of {path} is broken ({error}): correct it") from None
    needed = {"text", "spans"} if known else {"text"}
    if not needed <= set(header):
        found = ", ".join(header) or "nothing"
        raise InputError(f"{path} has the columns {_shown(found)}: {' and '.join(sorted(needed))} are needed")
    number = 0
    while True:
        number += 1
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, InputError(f"row {number} of {path} (line {line}) has broken quotes ({error}): correct it")
            continue
        if len(values) == len(header):
            yield number, dict(zip(header, values, strict=True))
        elif values:
            told = f"row {number} of {path} (line {line}) has {len(values)} columns"
            yield number, InputError(f"{told}, the header {len(header)}: quote texts that contain commas")


def _jsonl(path: Path, file: TextIO, known: bool) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, _object(path, number, line)


def _object(path: Path, number: int, line: str) -> dict[str, Any] | InputError:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return InputError(f"row {number} of {path} is not valid JSON ({error}): correct it")
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return InputError(f"row {number} of {path} is no object with a text: write {{'text': ..., 'spans': [...]}}")
    return value


def _lines(path: Path, file: TextIO, known: bool) -> Iterator[Row]:
    if known:
        raise InputError(f"{path} has texts without spans: give .csv or .jsonl")
    for number, line in enumerate(file, 1):
        yield number, {"text": line.rstrip("\r\n")}


READERS: dict[str, Callable[[Path, TextIO, bool], Iterator[Row]]] = {".csv": _csv, ".jsonl": _jsonl, ".txt": _lines}


# One row --------------------------------------------------------------------------------------------------------------


def _post(path: Path, number: int, row: dict[str, Any] | InputError, known: bool) -> Post:
    if isinstance(row, InputError):
        raise row
    text, where = row["text"], f"row {number} of {path}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} is not UTF-8 text (character {error.start}): convert the file to UTF-8") from None
    if len(text) > LONGEST:
        raise InputError(f"{where} has {len(text):,} characters, at most {LONGEST:,} were expected: cut it into parts")
    if "spans" not in row and known:
        raise InputError(f"{where} has no spans: add them")
    spans = tuple(read_spans(row["spans"], len(text), where)) if row.get("spans") is not None and known else None
    return Post(text, spans, number, str(path))


def read_spans(value: Any, length: int | None, where: str) -> list[Span]:
    """Spans as files write them: characters, ``[start, end]`` pairs or objects; or JSON text of such a list.

    Args:
        value: the list.
        length: of the text that they must be inside of, where it is known.
        where: the file and the row, for the sentence.

    Raises:
        InputError: when it is no such list, or an offset is outside the text.
    """
    try:
        listed = json.loads(value) if isinstance(value, str) else value
        if not isinstance(listed, list):
            raise ValueError("not a list")
        spans = _spans(listed)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{where} has spans {_shown(value)} ({error}): write a list of character offsets") from None
    outside = [span for span in spans if span.start < 0 or (length is not None and span.end > length)]
    if outside:
        told = f"{where} has offsets {outside[0].start} to {outside[0].end - 1} outside its text"
        raise InputError(f"{told} of {length} characters: count code points from 0" if length is not None else told)
    return spans


def _spans(listed: Sequence[Any]) -> list[Span]:
    if all(type(each) is int for each in listed):
        return of_characters(listed)
    found = sorted(Span(*_pair(each)) for each in listed)
    for span, after in zip(found, [*found[1:], None], strict=True):
        if span.start >= span.end or (after and after.start < span.end):
            raise ValueError(f"[{span.start}, {span.end}] is empty or overlaps the next")
    return found


def _pair(each: Any) -> tuple[int, int, float]:
    values = [each["start"], each["end"], each.get("score", 1.0)] if isinstance(each, dict) else [*each, 1.0]
    start, end, score = values
    if type(start) is not int or type(end) is not int or type(score) not in (int, float):
        raise ValueError(f"{_shown(each)} is no span")
    return start, end, float(score)


def _shown(value: Any) -> str:
    """The beginning of what was given."""
    text = str(value)
    return repr(text if len(text) <= 40 else text[:40] + "...")
