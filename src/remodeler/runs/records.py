"""JSON and JSON lines on disk, written so that a kill at any moment leaves nothing half-made; the record of a result.

Files are written beside their place and renamed.
"""

import errno
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from remodeler.errors import TOO_MANY_FILES, InputError, one_line
from remodeler.runs.streams import shell_line

RECORD_FILE = "record.json"
VERSIONED = ("remodeler", "torch", "transformers", "safetensors", "tokenizers", "datasets", "accelerate", "peft")


@dataclass(frozen=True)
class Record:
    """What was done: written as ``record.json`` beside every result."""

    verb: str
    options: dict[str, Any]
    inputs: dict[str, Any]
    seed: int
    versions: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that a result depends on."""
    found = {"python": sys.version.split()[0]}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text; refuses NaN and infinities, which JSON has no word for."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space", "read-only" and "not permitted" into one sentence that names the path, whoever says it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (found := os_error(error)) is None:
            raise
        raise disk_refusal(path, found) from error


def os_error(error: Exception) -> OSError | None:
    """The error of a file behind an exception: itself, or what tokenizers and safetensors, in Rust, quote of it.

    None where there is none, or where memory and not a disk is full.
    """
    if not isinstance(error, OSError):
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            return None
        error = OSError(int(found.group(1)), os.strerror(int(found.group(1))))
    return None if error.errno == errno.ENOMEM else error


def disk_refusal(path: Path, error: OSError) -> InputError:
    """What an error of the disk means for a path, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or _cut_short(error):
        return InputError(f"no space left on the disk of {path}: free some, then run the same command again")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return InputError(f"{path} can't be opened, {TOO_MANY_FILES}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return InputError(f"{path} can't be written ({os.strerror(error.errno)}): choose a place you may write to")
    return InputError(f"{path} can't be used ({error.strerror or one_line(error)}): choose another place")


def _cut_short(error: OSError) -> bool:
    """Whether numpy could not write all of an array, which it says without a number."""
    return error.errno is None and "requested and" in str(error)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(path.name + ".partial")
    with disk_errors(path):
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all; undecodable bytes of a path in it stand as escapes, as JSON has them."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file; :class:`InputError` when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no file {path}: check the path") from None
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): restore or delete it") from None


def append_line(path: Path, value: Any) -> None:
    """Add one JSON line and wait until it is on the disk."""
    append_lines(path, [value])


def append_lines(path: Path, values: Sequence[Any]) -> None:
    """Add JSON lines and wait until they are on the disk."""
    with disk_errors(path), path.open("ab") as file:
        file.write("".join(to_json(value) + "\n" for value in values).encode(errors="backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """The values of a JSON-lines file. A last line without its newline was torn by a kill and is left out."""
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path") from None
    lines = whole.decode("utf-8", errors="replace").split("\n")[:-1]
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _parse(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number} of {path} is not valid JSON ({error}): restore or delete the file") from None


def drop_torn_line(path: Path) -> None:
    """Cut off what a kill left of an unfinished last line."""
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        with disk_errors(path):
            os.truncate(path, end)


def save_record(folder: Path, record: Record) -> None:
    """Write ``record.json`` into a folder; what is no finite number, which JSON has no word for, as null."""
    write_json(folder / RECORD_FILE, finite(asdict(record)))


def finite(value: Any) -> Any:
    """A value with None for every number in it that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_record(folder: Path) -> Record:
    """Read ``record.json`` of a folder."""
    value = read_json(folder / RECORD_FILE)
    try:
        return Record(**value)
    except TypeError as error:
        raise InputError(f"{folder / RECORD_FILE} is not a record of this tool ({error})") from None


_command: ContextVar[str] = ContextVar("command", default="")


@contextmanager
def running_command(words: Sequence[str]) -> Iterator[None]:
    """What records say meanwhile of how a result was made: ``remodel`` with these words."""
    token = _command.set(shell_line(["remodel", *words]))
    try:
        yield
    finally:
        _command.reset(token)


def command_line() -> str:
    """The command that is running, as a record tells it; empty where a Python program runs, which is no command."""
    return _command.get()


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def sha256(*paths: Path) -> str:
    """Digest of a file's bytes, or of those of several, one behind the other."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()
