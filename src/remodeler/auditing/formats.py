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
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from remodeler.auditing.conll import LABEL, post_lines, read_post
from remodeler.auditing.posts import read_posts, read_spans
from remodeler.auditing.rules import Likely
from remodeler.auditing.spans import Span, characters
from remodeler.errors import InputError
from remodeler.records import to_json, write_bytes

SUBMISSION = "spans-pred.txt"


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
    if path.suffix.lower() == ".csv":
        return _posts(path, skip_bad)
    kind = _kind(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: check the path") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): give a file") from None
    found = kind.read(path, content, skip_bad)
    if not found.rows and not found.bad:
        raise InputError(f"{path} holds no posts: give a file with at least one")
    counted = Counter(row.id for row in found.rows)
    if counted and max(counted.values()) > 1:
        raise InputError(f"{path} has the id {counted.most_common(1)[0][0]} more than once: each post has one row")
    return found


def matched(path: Path, predicted: Sequence[Prediction], gold: Sequence[Prediction]) -> list[list[Span]]:
    """The predicted spans of each gold post, by id; as the organisers, refuses other ids than those of the gold."""
    ours, theirs = {row.id: row for row in predicted}, [row.id for row in gold]
    if ours.keys() != set(theirs):
        odd = sorted(ours.keys() ^ set(theirs))[0]
        told = f"{path} has {len(ours)} posts, the gold file {len(theirs)} (id {odd} is in one of them only)"
        raise InputError(f"{told}: predict exactly the posts of the gold file")
    return [list(ours[number].spans) for number in theirs]


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


def _read_zip(path: Path, content: bytes, skip_bad: bool) -> Predictions:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _read_submission(path, archive.read(SUBMISSION), skip_bad)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{path} is no submission ({error}): it is a zip with {SUBMISSION} at its root") from None


def _read_submission(path: Path, content: bytes, skip_bad: bool) -> Predictions:
    return _lines(path, content, skip_bad, _submitted)


def _submitted(line: str, where: str, number: int) -> Prediction:
    parts = line.split("\t")
    if len(parts) != 2 or not re.fullmatch(r"\s*\d+\s*", parts[0]):
        raise InputError(f"{where} is not id<TAB>[characters]: correct it")
    return Prediction(int(parts[0]), tuple(read_spans(parts[1], None, where)))


def _emptied(line: str, number: int) -> Prediction | None:
    """A row whose list can't be read counts as an empty one, if it has an id."""
    found = re.match(r"\s*(\d+)\t", line)
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
    return value if row.likely is None else value | {"likely": _packed(row.likely)}


def _packed(likely: Likely) -> list[list[float]]:
    """Runs of equal likelihoods, to four digits."""
    return [[len(list(group)), value] for value, group in groupby(np.round(likely, 4).tolist())]


def _unpacked(runs: Sequence[Sequence[float]]) -> Likely:
    values = np.array([value for _, value in runs], dtype=np.float64)
    return np.repeat(values, np.array([count for count, _ in runs], dtype=np.int64))


def _read_jsonl(path: Path, content: bytes, skip_bad: bool) -> Predictions:
    return _lines(path, content, skip_bad, _object)


def _object(line: str, where: str, number: int) -> Prediction:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({error}): correct it") from None
    return from_row(value, where, number)


def from_row(value: Any, where: str, number: int) -> Prediction:
    """A prediction from an object of a JSON line; without an id, the place of the line is its id."""
    try:
        text, spans, likely = value.get("text"), value["spans"], value.get("likely")
        unpacked = None if likely is None else _unpacked(likely)
        if unpacked is not None and (text is None or len(unpacked) != len(text)):
            raise ValueError("likelihoods of another text")
        identity = int(value.get("id", number - 1))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{where} is no prediction ({error}): write {{'id': ..., 'spans': [...]}}") from None
    return Prediction(identity, tuple(read_spans(spans, None if text is None else len(text), where)), text, unpacked)


# CoNLL ----------------------------------------------------------------------------------------------------------------


def _write_conll(rows: Sequence[Prediction]) -> bytes:
    posts = [post_lines(row.id, _text_of(row), row.spans) for row in rows]
    return "\n".join("".join(f"{line}\n" for line in post) for post in posts).encode()


def _read_conll(path: Path, content: bytes, skip_bad: bool) -> Predictions:
    blocks = [block.strip("\n") for block in re.split(r"\n\s*\n", _text(path, content)) if block.strip()]
    rows, bad = [], []
    for number, block in enumerate(blocks):
        where = f"post {number + 1} of {path}"
        try:
            identity, text, found = read_post(block, where, number)
            listed = [{"start": each.start, "end": each.end} for each in found]
            rows.append(Prediction(identity, tuple(read_spans(listed, len(text), where)), text))
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


# Lines, and tables of kinds -------------------------------------------------------------------------------------------


def _lines(path: Path, content: bytes, skip_bad: bool, one: Callable[[str, str, int], Prediction]) -> Predictions:
    rows: list[Prediction] = []
    bad: list[str] = []
    for number, line in enumerate(_text(path, content).split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(one(line, f"row {number} of {path}", number))
        except InputError as error:
            if not skip_bad:
                raise InputError(f"{error}; or take such rows for empty ones with --skip-bad") from None
            bad.append(str(error))
            rows += [row for row in [_emptied(line, number)] if row]
    return Predictions(tuple(rows), tuple(bad))


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): convert it") from None


def _posts(path: Path, skip_bad: bool) -> Predictions:
    found = read_posts(path, known=True, skip_bad=skip_bad)
    return Predictions(tuple(Prediction(post.id, post.spans or (), post.text) for post in found.posts), found.bad)


def _write_csv(rows: Sequence[Prediction]) -> bytes:
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["spans", "text"])
    for row in rows:
        writer.writerow([characters(row.spans), _text_of(row)])
    return written.getvalue().encode()


@dataclass(frozen=True)
class Kind:
    """How a kind of file is written and read."""

    write: Callable[[Sequence[Prediction]], bytes]
    read: Callable[[Path, bytes, bool], Predictions]


KINDS: dict[str, Kind] = {
    ".txt": Kind(_write_submission, _read_submission),
    ".zip": Kind(_write_zip, _read_zip),
    ".jsonl": Kind(_write_jsonl, _read_jsonl),
    ".conll": Kind(_write_conll, _read_conll),
    ".csv": Kind(_write_csv, lambda path, content, skip_bad: _posts(path, skip_bad)),
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
