"""Files that are not what their names say, told by their first bytes; and JSON files that hold an object."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from remodeler.errors import InputError

PAGE = "{file} is a web page, not the file itself: download it again, logged in if it needs that"
FILES: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "{file} is a pointer of git-lfs, not the file itself: run `git lfs pull` in its folder, or download it",
    ),
    (b"PK\x03\x04", "{file} is a pickle of PyTorch under another name: convert it to safetensors with transformers"),
    (
        b"\x80\x02\x8a\x0a",
        "{file} is a pickle of PyTorch under another name: convert it to safetensors with transformers",
    ),
    (b"GGUF", "{file} is a GGUF file under another name: give it one that ends in .gguf, and give that"),
    *((first, PAGE) for first in (b"<!DOCTYPE", b"<!doctype", b"<html", b"<?xml", b"<HTML")),
    (b"Entry not found", "{file} is the hub's answer for a file that is not there: check its name there"),
)
"""First bytes of a file that is not what its name says."""


def refuse_file(file: Path) -> None:
    """Refuse a file that can't be read as what its name says, where its first bytes tell what it is.

    Raises:
        InputError: what it is instead.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(32)
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror}): check the path") from None
    if not start:
        raise InputError(f"{file} has 0 bytes: get the file again")
    for first, sentence in FILES:
        if start.startswith(first):
            raise InputError(sentence.format(file=file))


def refuse_no_file(path: Path) -> None:
    """Refuse what has a file's name and is none: a folder, a link to nothing, a pipe, which is waited for forever.

    Raises:
        InputError: what it is; nothing where there is a file, or where there is nothing.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_symlink():
            return
        raise InputError(f"{path} is a link to a file that is not there: get that file") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{path} is {kind}, a file was expected: take it away, or get the file")


def refuse_unreadable(file: Path) -> None:
    """Refuse a file that nobody may read here: it is missed only when a result is written."""
    if not os.access(file, os.R_OK):
        raise InputError(f"{file} can't be read ({os.strerror(errno.EACCES)}): check its rights")


def refuse_other_than_text(file: Path) -> None:
    """Refuse a text that is not UTF-8, as all that lies beside weights has to be."""
    try:
        file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}): save it as that") from None


def json_object(file: Path) -> dict[str, Any]:
    """A JSON file that must hold an object.

    Raises:
        InputError: when it is missing, broken or something else.
    """
    refuse_file(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error}): restore it") from None
    if not isinstance(found, dict):
        raise InputError(f"{file} holds a {type(found).__name__}, an object with named values was expected: restore it")
    return found
