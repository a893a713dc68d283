"""Standard streams that work outlives: closed, full, broken or unable to spell a name, they cost nobody a result."""

import errno
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would move the cursor, colour the terminal, turn the writing round, or is no character at all."""
SPELLED = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{HORIZONTAL ELLIPSIS}": "...",
        "\N{PLUS-MINUS SIGN}": "+/-",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{NO-BREAK SPACE}": " ",
    }
)
SPELLED |= {number: "+" for number in range(0x2500, 0x2580)}  # corners and crossings of boxes
SPELLED |= {ord(each): sign for sign, signs in (("-", "─━═"), ("|", "│┃║"), ("*", "•")) for each in signs}
"""Signs of our own and of help texts, for terminals that have no such characters."""


def visible(text: str) -> str:
    """A text on one line, in which control characters and undecodable bytes of a path stand as Python escapes."""
    return UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def spell(text: str, encoding: str | None) -> str:
    """A text in characters that an encoding has; those it lacks are written as Python escapes."""
    name = encoding or "utf-8"
    try:
        text.encode(name)
    except UnicodeEncodeError:
        return text.translate(SPELLED).encode(name, "backslashreplace").decode(name)
    return text


def shell_line(words: Iterable[str]) -> str:
    """Words as bash reads them, on one line: it shows and runs as it is, whatever is in a name."""
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    if not UNSEEN.search(word):
        return shlex.quote(word)
    bare = b"'\\"
    escaped = (chr(each) if 32 <= each < 127 and each not in bare else f"\\x{each:02x}" for each in os.fsencode(word))
    return f"$'{''.join(escaped)}'"


class LastingStream:
    """A text stream on which nothing fails: once it can't be written any more, what comes is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: Exception | None = None
        """Why it can't be written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        self._tried("write", spell(text, self.stream.encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, if that is possible."""
        self._tried("flush")

    def _tried(self, action: str, *words: str) -> None:
        if self.error is not None:
            return
        try:
            getattr(self.stream, action)(*words)
        except (OSError, ValueError) as error:  # the latter from a closed stream
            self.error = error
            _silence(self.stream)

    @property
    def lost(self) -> str | None:
        """Why something that a person wanted to see was not written; none where a reader left, as ``head`` does."""
        broken = isinstance(self.error, OSError) and self.error.errno == errno.EPIPE
        return None if self.error is None or broken else getattr(self.error, "strerror", None) or str(self.error)


def _silence(stream: TextIO) -> None:
    """Point a stream's descriptor at nothing, so that what it still holds does not fail when Python ends."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


@contextmanager
def lasting_streams() -> Iterator[tuple[LastingStream, LastingStream]]:
    """Standard output and error that never fail; both as they were afterwards."""
    _occupy_standard_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        out, err = (LastingStream(each or nothing) for each in before)
        sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
        try:
            yield out, err
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before


def _occupy_standard_descriptors() -> None:
    """Give closed ones to nothing: else the next file that is opened would receive what libraries print."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
