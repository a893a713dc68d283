"""Bytes to lines: what a text file is, for every verb.

Files are UTF-8, with or without a byte order mark. A line ends in a newline (or in a carriage return and a newline) and
in nothing else: U+2028, U+0085, form feeds and lone carriage returns are characters of a text. What is no text in UTF-8
is refused by name, where it can be in a single row.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

from remodeler.errors import InputError, one_line

Values = dict[str, Any]
SURROGATE = re.compile("[\ud800-\udfff]")
BEGINNINGS = (
    (rb"\x1f\x8b", "is compressed with gzip: unpack it (gunzip)"),
    (rb"BZh[1-9]1AY&SY", "is compressed with bzip2: unpack it (bunzip2)"),
    (rb"\xfd7zXZ\x00", "is compressed with xz: unpack it (unxz)"),
    (rb"\x28\xb5\x2f\xfd", "is compressed with zstandard: unpack it (unzstd)"),
    (rb"PK\x03\x04", "is a zip archive, as spreadsheets are: unpack it, or save it as CSV"),
    (rb"PAR1[\x00-\x1f]", "is a parquet file: end its name in .parquet"),
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "is not UTF-8 text but UTF-32: convert it to UTF-8"),
    (rb"\xff\xfe|\xfe\xff", "is not UTF-8 text but UTF-16: convert it to UTF-8"),
)
"""How files begin that are no text in UTF-8."""
LONGEST_LIST = 120
"""Characters of names that are shown."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """A row of a file: its values, or the sentence that says what is wrong with it."""

    number: int
    values: Values = field(default_factory=dict)
    fault: str | None = None

    def checked(self) -> Values:
        """The values.

        Raises:
            InputError: for a row that is broken.
        """
        if self.fault is not None:
            raise InputError(self.fault)
        return self.values


def whole_text(path: Path, content: bytes | None = None) -> str:
    """A text file whole, its lines ended by a newline each; ``content`` where it is in memory already.

    Raises:
        InputError: for a file that can't be read or is not UTF-8.
    """
    return "\n".join(row.checked()["text"] for row in text_lines(path, content))


def text_lines(path: Path, content: bytes | None = None) -> Iterator[Row]:
    """The lines of a text file as rows, blank ones too, without their ends."""
    for number, line in enumerate(decoded_lines(path, content), 1):
        where = f"row {number} of {path}"
        yield Row(number, {"text": _without_end(line)}, fault_of(where, line))


def refuse_missing(path: Path) -> None:
    """Raise where there is no file, or a folder."""
    if os.path.isdir(path):  # Path's own tests raise for a name that is too long, as a text given for one is
        raise InputError(f"{path} is a folder: give a file")
    if not os.path.exists(path):
        raise InputError(f"there is no file {path}: check the path")


def decoded_lines(path: Path, content: bytes | None = None, bare_returns: bool = False) -> Iterator[str]:
    """Lines with their ends; bytes that are not UTF-8 become surrogates, so that the row that has them can be named.

    ``bare_returns``: whether a file may have carriage returns and no newline at all.
    """
    for number, line in enumerate(_byte_lines(path, content)):
        start = line.removeprefix(BYTE_ORDER_MARK) if number == 0 else line
        if number == 0 and not bare_returns and b"\n" not in line and b"\r" in line.removesuffix(b"\r"):
            raise InputError(f"the lines of {path} end in carriage returns alone: save it with newlines")
        if start:
            yield start.decode("utf-8", errors="surrogateescape")


def _byte_lines(path: Path, content: bytes | None) -> Iterator[bytes]:
    if content is None:
        refuse_missing(path)
    try:
        with path.open("rb") if content is None else BytesIO(content) as file:
            first = file.readline()
            _refuse_other_formats(path, first)
            yield from chain([first] if first else [], file)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or one_line(error)}): check the file") from None


def _refuse_other_formats(path: Path, first: bytes) -> None:
    told = next((told for begins, told in BEGINNINGS if re.match(begins, first)), None)
    if told is not None:
        raise InputError(f"{path} {told}")


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def fault_of(where: str, text: str) -> str | None:
    """What is wrong with decoded characters, or None."""
    if not text.isascii() and (found := SURROGATE.search(text)):
        before = text[max(0, found.start() - 12) : found.start()].lstrip()
        byte = f"the byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start()}, after {before!r}"
        return f"{where} is not UTF-8 text ({byte}): convert the file to UTF-8"
    if "\0" in text:
        return f"{where} has a NUL byte at character {text.index(chr(0))}: give text in UTF-8 (not UTF-16)"
    return None


def format_names(names: Iterable[Any]) -> str:
    """Names of columns on one line, whatever is in them."""
    text = ", ".join("".join(each if each.isprintable() else " " for each in str(name)) for name in names) or "nothing"
    return text if len(text) <= LONGEST_LIST else text[:LONGEST_LIST] + "..."


def short(value: Any) -> str:
    """The beginning of what was given."""
    text = str(value)
    return repr(text if len(text) <= 40 else text[:40] + "...")
