"""Read and write prediction files: SemEval submission, JSON lines, CoNLL, CSV.

``.txt`` is SemEval's ``id<TAB>[characters]``, ``.zip`` that as ``spans-pred.txt``. ``.jsonl`` has the text, spans in
the format of Hugging Face's pipelines (``start``, ``end`` excluded, ``word``, ``score``) and optionally the likelihoods
of all characters as runs ``[count, likelihood]``. ``.conll`` has one word per line, split where a span begins or ends:
``word<TAB>start<TAB>end<TAB>tag``, below ``# id`` and ``# text`` lines. ``.csv`` is the format of gold spans.

Deviation: the organisers' script reads an unreadable list as an empty one; here it is an error, or with ``skip_bad``
an empty list that is counted.
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
from remodeler.auditing.formats.likelihoods import from_runs, to_runs
from remodeler.auditing.formats.posts import read_posts, whole_id
from remodeler.auditing.formats.span_lists import read_spans
from remodeler.auditing.spans import Likely, Span, characters
from remodeler.data.lines import Row, refuse_missing, short, text_lines, whole_text
from remodeler.data.rows import json_rows
from remodeler.errors import InputError, option
from remodeler.runs.records import to_json, write_bytes

SUBMISSION = "spans-pred.txt"
TABLES = (".csv", ".json", ".parquet")
"""Formats of gold spans, which are read like posts."""


@dataclass(frozen=True)
class Prediction:
    """Spans of a post, with its text and the likelihoods of its characters where they are known."""

    id: int
    spans: tuple[Span, ...]
    text: str | None = None
    likely: Likely | None = None


@dataclass(frozen=True)
class Predictions:
    """Content of a file, and a message for each bad row."""

    rows: tuple[Prediction, ...]
    bad: tuple[str, ...] = ()


def write_predictions(path: Path, rows: Sequence[Prediction]) -> None:
    """Write a file atomically; its suffix determines the format."""
    write_bytes(path, _format(path).write(rows))


def read_predictions(path: Path, skip_bad: bool = False) -> Predictions:
    """Read predictions or gold spans.

    Raises:
        InputError: if the file can't be read, or for a bad row without ``skip_bad``.
    """
    if path.suffix.lower() in TABLES:
        return _read_posts(path, skip_bad)
    file_format = _format(path)
    refuse_missing(path)
    found = file_format.read(path, skip_bad)
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
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        # A fixed date, so that the same predictions give the same bytes.
        entry = zipfile.ZipInfo(SUBMISSION, (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, _write_submission(rows))
    return content.getvalue()


def _read_zip(path: Path, skip_bad: bool) -> Predictions:
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(SUBMISSION)
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path} is not a submission ({error}): give a zip with {SUBMISSION} at its root") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}): give a file") from None
    return _collect(path, text_lines(path, content), skip_bad, _parse_submission)


def _read_submission(path: Path, skip_bad: bool) -> Predictions:
    return _collect(path, text_lines(path), skip_bad, _parse_submission)


def _parse_submission(row: Row, where: str) -> Prediction | None:
    line: str = row.checked()["text"]
    if not line.strip():
        return None
    parts = line.split("\t")
    if len(parts) != 2 or not re.fullmatch(r"\s*\d+\s*", parts[0]):
        raise InputError(f"{where} is not id<TAB>[characters]: correct it")
    return Prediction(int(parts[0]), tuple(read_spans(parts[1], None, where)))


def _empty_row(row: Row) -> Prediction | None:
    """An empty prediction for a row whose list can't be read, if it has an id."""
    found = re.match(r"\s*(\d+)\t", str(row.values.get("text")))
    return Prediction(int(found[1]), ()) if found else None


# JSON lines -----------------------------------------------------------------------------------------------------------


def as_dicts(text: str, spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Spans in the format of Hugging Face's token-classification pipeline."""
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
    """A prediction as the object of a JSON line."""
    if row.text is None:
        return {"id": row.id, "spans": [{"start": each.start, "end": each.end} for each in row.spans]}
    value = {"id": row.id, "text": row.text, "spans": as_dicts(row.text, row.spans)}
    return value if row.likely is None else value | {"likely": to_runs(row.likely)}


def _read_jsonl(path: Path, skip_bad: bool) -> Predictions:
    return _collect(
        path,
        json_rows(path),
        skip_bad,
        lambda row, where: parse_row(row.checked(), where, row.number),
        keep_empty=False,
    )


def parse_row(value: Any, where: str, number: int) -> Prediction:
    """Parse the object of a JSON line; without an id, the number of the row is its id."""
    try:
        text, spans, likely = value.get("text"), value["spans"], value.get("likely")
        if text is not None and not isinstance(text, str):
            raise ValueError(f"its text is {short(text)}")
        found = None if likely is None else from_runs(likely)
        if found is not None and (text is None or len(found) != len(text)):
            raise ValueError("likelihoods of another text")
        identity = number - 1 if value.get("id") is None else _identity(value["id"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{where} is not a prediction ({reason}): write {{'id': ..., 'spans': [...]}}") from None
    return Prediction(identity, tuple(read_spans(spans, text, where)), text, found)


def _identity(value: Any) -> int:
    """Parse an integer, also from a text of digits."""
    if (found := whole_id(value)) is None:
        raise ValueError(f"its id is {short(value)}, not an integer")
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
    """The text, which CoNLL and CSV files need."""
    if row.text is None:
        raise InputError("these predictions have no texts, which CoNLL and CSV files need: predict again, into .jsonl")
    return row.text


# Rows, and the table of formats ---------------------------------------------------------------------------------------


def _collect(
    path: Path,
    found: Iterable[Row],
    skip_bad: bool,
    parse: Callable[[Row, str], Prediction | None],
    keep_empty: bool = True,
) -> Predictions:
    """Parse rows; a bad one is left out, or with ``keep_empty`` and an id becomes an empty prediction."""
    rows: list[Prediction] = []
    bad: list[str] = []
    for row in found:
        try:
            parsed = parse(row, f"row {row.number} of {path}")
        except InputError as error:
            if not skip_bad:
                what = "read such rows as empty ones" if keep_empty else "leave such rows out"
                raise InputError(f"{error}; or {what} with {option('skip_bad', True)}") from None
            bad.append(str(error))
            parsed = _empty_row(row) if keep_empty else None
        rows += [parsed] if parsed else []
    return Predictions(tuple(rows), tuple(bad))


def _read_posts(path: Path, skip_bad: bool) -> Predictions:
    found = read_posts(path, known=True, skip_bad=skip_bad)
    return Predictions(tuple(Prediction(post.id, post.spans or (), post.text) for post in found.posts), found.bad)


def _write_csv(rows: Sequence[Prediction]) -> bytes:
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    quoting = csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["spans", "text"])
    for row in rows:
        chosen = quoting if "\r" in _text_of(row) else writer  # Python 3.11 leaves a lone carriage return unquoted
        chosen.writerow([characters(row.spans), _text_of(row)])
    return written.getvalue().encode()


@dataclass(frozen=True)
class Format:
    """How files of a format are written and read."""

    write: Callable[[Sequence[Prediction]], bytes]
    read: Callable[[Path, bool], Predictions]


FORMATS: dict[str, Format] = {
    ".txt": Format(_write_submission, _read_submission),
    ".zip": Format(_write_zip, _read_zip),
    ".jsonl": Format(_write_jsonl, _read_jsonl),
    ".conll": Format(_write_conll, _read_conll),
    ".csv": Format(_write_csv, _read_posts),
}


def refuse_format(path: Path, likelihoods: bool = False) -> None:
    """Raise for a file type that is unsupported, or can't hold likelihoods; before there is work to lose."""
    _format(path)
    if likelihoods and path.suffix.lower() != ".jsonl":
        raise InputError(f"{option('likelihoods', True)} was given, which {path} can't hold: end its name in .jsonl")


def _format(path: Path) -> Format:
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise InputError(f"{path} is of an unsupported file type: end its name in {', '.join(FORMATS)}")
    return found
