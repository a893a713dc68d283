"""Files to rows: the one reader of ``.txt``, ``.csv``, ``.jsonl``, ``.json`` and ``.parquet``, whatever verb asks.

A row is an object of named values with its number, from 1; blank lines and the header of a CSV are not counted. What
can't be read is never guessed or shifted: a row that is broken carries the sentence that says so, and the others keep
their numbers; a file that is broken as a whole ends in :class:`InputError`.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from remodeler.data.hub import hub_rows, on_hub
from remodeler.data.lines import Row, decoded_lines, fault_of, format_names, refuse_missing, short, text_lines
from remodeler.data.strict_json import BEHIND, BLANK, BREAKS_OFF, elements, parse_json
from remodeler.errors import InputError, one_line

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
LONGEST_CELL = 2**31 - 1
"""Characters; the csv library's own limit is 131,072."""
DELIMITERS = re.compile("[;\t|,]")
"""What separates the columns of files that are called CSV and are none."""


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, one at a time; which kind of file it is, its name's ending says.

    The rows of a ``.txt`` are its lines, blank ones too, as ``{"text": line}``; so are plain texts in JSON.

    Raises:
        InputError: for a file that can't be read as a whole.
    """
    refuse_missing(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        advice = "unpack it; " * (path.suffix.lower() in PACKED)
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}: {advice}texts are read from {', '.join(READERS)}")
    return reader(path)


def source_rows(source: str, first: int) -> Iterator[Row]:
    """The rows of a file, or the first of a data set on the hub (see :mod:`remodeler.data.hub`).

    Raises:
        InputError: for a source that can't be read as a whole.
    """
    if not on_hub(source):
        return read_rows(Path(source))
    return (Row(number, without_nan(values)) for number, values in enumerate(hub_rows(source, first), 1))


# CSV ------------------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path) -> Iterator[Row]:
    """Rows that have as many cells as the header has names; the columns without a name must be empty, but the first."""
    reader = csv.reader(decoded_lines(path), strict=True)
    names = _header(path, reader)
    number = 0
    while names:
        line = reader.line_num + 1
        try:
            cells = _next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            yield Row(number, fault=f"{_where(path, number, line, reader.line_num)} {_explain(error)}")
            continue
        if cells and not (len(names) > len(cells) == 1 and not cells[0].strip()):
            number += 1
            yield _csv_row(f"row {number} of {path} (line {line})", number, names, cells)


def _explain(error: csv.Error) -> str:
    if "new-line character" in str(error):
        return "has a carriage return outside of quotes: quote the text that it is in"
    return f"has broken quotes ({error}): quote texts whole, and double the quotes inside them"


def _next(reader: Any) -> list[str]:
    """The next row, however long its cells are; the limit is the whole process's and goes back."""
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        cells: list[str] = next(reader)
        return cells
    finally:
        csv.field_size_limit(limit)


def _header(path: Path, reader: Any) -> list[str]:
    """The names of the columns, in small letters, without white space around them; nothing where the file is blank."""
    names: list[str] = []
    try:
        while not any(name.strip() for name in names):
            names = _next(reader)
    except StopIteration:
        return []
    except csv.Error as error:
        raise InputError(f"the header of {path} is broken ({error}): correct it") from None
    if fault := fault_of(f"the header of {path}", ",".join(names)):
        raise InputError(fault)
    names = [name.strip().lower() for name in names]
    if len(names) == 1 and DELIMITERS.search(names[0]):
        raise InputError(f"{path} has one column, {short(names[0])}: separate columns by commas, and quote texts")
    named = [name for name in names if name]
    if len({*named}) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise InputError(f"the header of {path} names {short(twice)} twice: give each column a name of its own")
    return names


def _csv_row(where: str, number: int, names: list[str], cells: list[str]) -> Row:
    if not any(names[len(cells) :]):  # a header that ends in commas names nothing behind the last
        cells = [*cells, *names[len(cells) :]]
    if len(cells) != len(names):
        told = f"has {len(cells)} columns, the header {len(names)}: quote texts that contain commas"
        return Row(number, fault=f"{where} {told}")
    fault = next((fault for fault in (fault_of(where, cell) for cell in cells) if fault), None)
    if len(names) > 1 and [cell.strip().lower() for cell in cells] == names:
        fault = f"{where} repeats the header, as joined files do: take it out"
    stray = next((cell for place, cell in enumerate(cells) if place and cell.strip() and not names[place]), None)
    if stray is not None:
        fault = f"{where} has {short(stray)} in a column without a name: name it, and quote texts that contain commas"
    return Row(number, {name: cell for name, cell in zip(names, cells, strict=True) if name}, fault)


# JSON -----------------------------------------------------------------------------------------------------------------


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of one JSON list, or of JSON lines: the file itself shows which it is.

    Raises:
        InputError: for a file that can't be read, or a list that breaks off.
    """
    lines = decoded_lines(path, bare_returns=True)
    blank, first = 0, ""
    for first in lines:
        if first.strip(BLANK):
            break
        blank += 1
    if first.lstrip(BLANK).startswith("["):
        return _list_elements(path, "".join(chain([first], lines)))
    return _json_lines(path, chain([first], lines), blank)


def _json_lines(path: Path, lines: Iterable[str], blank: int) -> Iterator[Row]:
    number = 0
    for place, line in enumerate(lines, 1 + blank):
        if line.strip(BLANK):
            number += 1
            yield _json_row(_where(path, number, place), number, line)


def _json_row(where: str, number: int, line: str) -> Row:
    if told := fault_of(where, line):
        return Row(number, fault=told)
    try:
        return _object(where, number, parse_json(line))
    except ValueError as error:
        return Row(number, fault=f"{where} is not valid JSON ({error}): {_advice(error)}")


def _advice(error: ValueError) -> str:
    return "give one object a line, or one list" if str(error).startswith(BREAKS_OFF) else "correct it"


def _list_elements(path: Path, text: str) -> Iterator[Row]:
    """The elements of a JSON list."""
    if told := fault_of(str(path), text):
        raise InputError(told)
    number = 0
    try:
        for number, value in enumerate(elements(text), 1):
            where = f"row {number} of {path}"
            if isinstance(value, ValueError):
                yield Row(number, fault=f"{where} is not valid JSON ({value}): correct it")
            else:
                yield _object(where, number, value)
    except ValueError as error:
        advice = "give one list, or one object a line" if BEHIND in str(error) else "restore it"
        raise InputError(f"{path} is not valid JSON (behind row {number}: {error}): {advice}") from None


def _object(where: str, number: int, value: Any) -> Row:
    """An object as it is, a plain text as one; anything else is none."""
    if isinstance(value, str):
        return Row(number, {"text": value})
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, fault=f"{where} is {short(value)}: an object, as {{'text': ...}}, was expected")


# Parquet --------------------------------------------------------------------------------------------------------------


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # takes half a second to import

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            if len({*names}) < len(names):
                raise InputError(f"{path} has two columns of one name ({format_names(names)}): rename one")
            every = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches())
            for number, values in enumerate(every, 1):
                yield Row(number, without_nan(values))
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} can't be read as .parquet ({one_line(error)}): check the file") from None


def without_nan(value: Any) -> Any:
    """The same with None for NaN, which tables of numbers have where a value is missing."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value


def _where(path: Path, number: int, line: int, last: int | None = None) -> str:
    """A row, and the lines it stands in, where these are others."""
    if last is not None and last > line:
        return f"row {number} of {path} (lines {line} to {last})"
    return f"row {number} of {path}" + (f" (line {line})" if line != number else "")


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".txt": text_lines,
    ".jsonl": json_rows,
    ".json": json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
