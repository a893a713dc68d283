"""Terminals of an encoding, and a text that is full of what rich would take for markup."""

import io
from typing import TextIO

MARKUP = "run [/b] [v2] :warning: [red]x"


def stream_of(encoding: str) -> TextIO:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")


def written(stream: TextIO) -> str:
    stream.flush()
    assert isinstance(stream, io.TextIOWrapper)
    return stream.buffer.getvalue().decode(stream.encoding)  # type: ignore[attr-defined, no-any-return]
