"""Predictions on disk, a kind of file each: SemEval submission, JSON lines, CoNLL, CSV; and what other tools speak.

``.txt`` is SemEval's ``id<TAB>[characters]``, ``.zip`` that as ``spans-pred.txt``. ``.jsonl`` has the text, spans as
Hugging Face's pipelines give them (``start``, ``end`` excluded, ``word``, ``score``) and, where they are kept, the
likelihoods of all characters as runs ``[count, likelihood]``. ``.conll`` has a word a line, cut where a span begins or
ends: ``word<TAB>start<TAB>end<TAB>tag``, under ``# id`` and ``# text`` lines. ``.csv`` is how gold spans come.

Deviation: the organisers' script takes a list that can't be read for an empty one; here it is an error, or with
``skip_bad`` an empty list that is counted.
"""

import csv
import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.auditing.formats.conll import DOCUMENT, LABEL, post_lines, read_post
from remodeler.auditing.formats.likelihoods import packed, unpacked
from remodeler.auditing.formats.posts import read_posts, whole_id
from remodeler.auditing.formats.span_lists import read_spans
from remodeler.auditing.spans import Likely, Span, characters
from remodeler.data.lines import Row, refuse_missing, short, text_lines, whole_text
from remodeler.data.rows import json_rows
from remodeler.errors import InputError
from remodeler.runs.records import to_json, write_bytes

SUBMISSION = "spans-pred.txt"
TABLES = (".csv", ".json", ".parquet")
"""Gold spans: read as posts are."""


@dataclass(frozen=True)
class Prediction:
    """The spans of a post; with its text and the likelihoods of its characters where they are known."""

    id: int
    spans: tuple[Span, ...]
    text: str | None = None
    likely: Likely | None = None


@dataclass(frozen=True)
class Predictions:
    """What a file holds, and a sentence for each row that was bad."""

    rows: tuple[Prediction, ...]
    bad: tuple[str, ...] = ()


def write_predictions(path: Path, rows: Sequence[Prediction]) -> None:
    """Write a file whole or not at all; its suffix says which kind."""
    write_bytes(path, _kind(path).write(rows))


def read_predictions(path: Path, skip_bad: bool = False) -> Predictions:
    """Read predictions or gold spans.

    Raises:
        InputError: for a file that can't be read, and for a bad row without ``skip_bad``.
    """
    if path.suffix.lower() in TABLES:
        return _posts(path, skip_bad)
    kind = _kind(path)
    refuse_missing(path)
    found = kind.read(path, skip_bad)
    if not found.rows and not found.bad:
        raise InputError(f"{path} holds no posts: give a file with at least one")
    counted = Counter(row.id for row in found.rows)
    if counted and max(counted.values()) > 1:
        raise InputError(f"{path} has the id {counted.most_common(1)[0][0]} more than once: each post has one row")
    return found


# SemEval --------------------------------------------------------------------------------------------------------------


def _write_submission(rows: Sequence[Prediction]) -> bytes:
    return "".join(f"{row.id}\t{characters(row.spans)}\n" for row in rows).encode()


def _write_zip(rows: Sequence[Prediction]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        # A fixed date: the same predictions are the same bytes.
        entry = zipfile.ZipInfo(SUBMISSION, (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, _write_submission(rows))
    return packed.getvalue()


def _read_zip(path: Path, skip_bad: bool) -> Predictions:
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(SUBMISSION)
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path} is no submission ({error}): it is a zip with {SUBMISSION} at its root") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}): give a file") from None
    return _collected(path, text_lines(path, content), skip_bad, _submitted)


def _read_submission(path: Path, skip_bad: bool) -> Predictions:
    return _collected(path, text_lines(path), skip_bad, _submitted)


def _submitted(row: Row, where: str) -> Prediction | None:
    line: str = row.checked()["text"]
    if not line.strip():
        return None
    parts = line.split("\t")
    if len(parts) != 2 or not re.fullmatch(r"\s*\d+\s*", parts[0]):
        raise InputError(f"{where} is not id<TAB>[characters]: correct it")
    return Prediction(int(parts[0]), tuple(read_spans(parts[1], None, where)))


def _emptied(row: Row) -> Prediction | None:
    """A row whose list can't be read counts as an empty one, if it has an id."""
    found = re.match(r"\s*(\d+)\t", str(row.values.get("text")))
    return Prediction(int(found[1]), ()) if found else None


# JSON lines -----------------------------------------------------------------------------------------------------------


def as_dicts(text: str, spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Spans as Hugging Face's token-classification pipeline gives them."""
    return [
        {
            "entity_group": LABEL,
            "score": span.score,
            "word": text[span.start : span.end],
            "start": span.start,
            "end": span.end,
        }
        for span in spans
    ]


def _write_jsonl(rows: Sequence[Prediction]) -> bytes:
    return "".join(to_json(to_row(each)) + "\n" for each in rows).encode()


def to_row(row: Prediction) -> dict[str, Any]:
    """A prediction as an object of a JSON line."""
    if row.text is None:
        return {"id": row.id, "spans": [{"start": each.start, "end": each.end} for each in row.spans]}
    value = {"id": row.id, "text": row.text, "spans": as_dicts(row.text, row.spans)}
    return value if row.likely is None else value | {"likely": packed(row.likely)}


def _read_jsonl(path: Path, skip_bad: bool) -> Predictions:
    return _collected(
        path, json_rows(path), skip_bad, lambda row, where: from_row(row.checked(), where, row.number), emptied=False
    )


def from_row(value: Any, where: str, number: int) -> Prediction:
    """A prediction from an object of a JSON line; without an id, the place of the row is its id."""
    try:
        text, spans, likely = value.get("text"), value["spans"], value.get("likely")
        if text is not None and not isinstance(text, str):
            raise ValueError(f"its text is {short(text)}")
        found = None if likely is None else unpacked(likely)
        if found is not None and (text is None or len(found) != len(text)):
            raise ValueError("likelihoods of another text")
        identity = number - 1 if value.get("id") is None else _identity(value["id"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{where} is no prediction ({reason}): write {{'id': ..., 'spans': [...]}}") from None
    return Prediction(identity, tuple(read_spans(spans, text, where)), text, found)


def _identity(value: Any) -> int:
    """A whole number, also as a text of digits."""
    if (found := whole_id(value)) is None:
        raise ValueError(f"its id is {short(value)}, not a whole number")
    return found


# CoNLL ----------------------------------------------------------------------------------------------------------------


def _write_conll(rows: Sequence[Prediction]) -> bytes:
    posts = [post_lines(row.id, _text_of(row), row.spans) for row in rows]
    return "\n".join("".join(f"{line}\n" for line in post) for post in posts).encode()


def _read_conll(path: Path, skip_bad: bool) -> Predictions:
    blocks = [block.strip("\n") for block in re.split(r"\n\s*\n", whole_text(path)) if block.strip()]
    blocks = [block for block in blocks if not DOCUMENT.fullmatch(block)]
    rows, bad = [], []
    for number, block in enumerate(blocks):
        where = f"post {number + 1} of {path}"
        try:
            identity, text, found = read_post(block, where, number)
            listed = [{"start": each.start, "end": each.end} for each in found]
            rows.append(Prediction(identity, tuple(read_spans(listed, text, where)), text))
        except InputError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
    return Predictions(tuple(rows), tuple(bad))


def _text_of(row: Prediction) -> str:
    """The text, without which some kinds of file can't be written."""
    if row.text is None:
        raise InputError("these predictions have no texts, which CoNLL and CSV need: predict again, into .jsonl")
    return row.text


# Rows, and tables of kinds --------------------------------------------------------------------------------------------


def _collected(
    path: Path,
    found: Iterable[Row],
    skip_bad: bool,
    one: Callable[[Row, str], Prediction | None],
    emptied: bool = True,
) -> Predictions:
    """The predictions of rows; of a bad one nothing, or an empty one, if it has an id and may."""
    rows: list[Prediction] = []
    bad: list[str] = []
    for row in found:
        try:
            made = one(row, f"row {row.number} of {path}")
        except InputError as error:
            if not skip_bad:
                what = "take such rows for empty ones" if emptied else "leave such rows out"
                raise InputError(f"{error}; or {what} with --skip-bad") from None
            bad.append(str(error))
            made = _emptied(row) if emptied else None
        rows += [made] if made else []
    return Predictions(tuple(rows), tuple(bad))


def _posts(path: Path, skip_bad: bool) -> Predictions:
    found = read_posts(path, known=True, skip_bad=skip_bad)
    return Predictions(tuple(Prediction(post.id, post.spans or (), post.text) for post in found.posts), found.bad)


def _write_csv(rows: Sequence[Prediction]) -> bytes:
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    quoted = csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["spans", "text"])
    for row in rows:
        chosen = quoted if "\r" in _text_of(row) else writer  # Python 3.11 leaves a lone carriage return unquoted
        chosen.writerow([characters(row.spans), _text_of(row)])
    return written.getvalue().encode()


@dataclass(frozen=True)
class Kind:
    """How a kind of file is written and read."""

    write: Callable[[Sequence[Prediction]], bytes]
    read: Callable[[Path, bool], Predictions]


KINDS: dict[str, Kind] = {
    ".txt": Kind(_write_submission, _read_submission),
    ".zip": Kind(_write_zip, _read_zip),
    ".jsonl": Kind(_write_jsonl, _read_jsonl),
    ".conll": Kind(_write_conll, _read_conll),
    ".csv": Kind(_write_csv, _posts),
}


def refuse_unknown(path: Path, likelihoods: bool = False) -> None:
    """A kind of file that is not known, or can't hold likelihoods, is refused before there is work to lose."""
    _kind(path)
    if likelihoods and path.suffix.lower() != ".jsonl":
        raise InputError(f"--likelihoods was given, which {path} can't hold: end its name in .jsonl")


def _kind(path: Path) -> Kind:
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path} is of no known kind: end its name in {', '.join(KINDS)}")
    return kind
