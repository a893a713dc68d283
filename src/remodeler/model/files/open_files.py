"""Files that are read again and again, of which only so many are open at once: systems limit that (``ulimit -n``)."""

import errno
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Self, TypeVar

from remodeler.errors import TOO_MANY_FILES, InputError

T = TypeVar("T")
MOST, SHARE = 64, 4
"""Files that stay open when nobody reads them, and at most such a part of the limit: others write, and load code."""


@dataclass
class _Opened(Generic[T]):
    handle: T
    readers: int = 0


class OpenFiles(Generic[T]):
    """Opens a file when it is read, and closes the one that was read longest ago when there are too many.

    Args:
        opened: opens a file.
        closed: closes it.
        most: how many files stay open; by default what the system's limit has room for.
    """

    def __init__(self, opened: Callable[[Path], T], closed: Callable[[T], object], most: int | None = None) -> None:
        self._opened, self._closed, self._most = opened, closed, most or most_open()
        self._files: OrderedDict[Path, _Opened[T]] = OrderedDict()
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._close_idle(0)

    @contextmanager
    def reading(self, path: Path) -> Iterator[T]:
        """The open file, which stays open meanwhile; several threads may read it.

        Raises:
            InputError: when the system lets no more files be open.
        """
        with self._lock:
            file = self._files[path] if path in self._files else self._open(path)
            self._files.move_to_end(path)
            file.readers += 1
        try:
            yield file.handle
        finally:
            with self._lock:
                file.readers -= 1

    def _open(self, path: Path) -> _Opened[T]:
        self._close_idle(self._most - 1)
        try:
            handle = self._opened(path)
        except OSError as error:
            if not _too_many(error, path):
                raise
            self._close_idle(0)
            handle = self._again(path)
        self._files[path] = _Opened(handle)
        return self._files[path]

    def _again(self, path: Path) -> T:
        try:
            return self._opened(path)
        except OSError as error:
            if not _too_many(error, path):
                raise
            raise InputError(f"{path} can't be opened, {TOO_MANY_FILES}") from None

    def _close_idle(self, most: int) -> None:
        """Close files that nobody reads, the one read longest ago first, until ``most`` are open."""
        for path in [path for path, file in self._files.items() if not file.readers]:
            if len(self._files) <= most:
                return
            self._closed(self._files.pop(path).handle)


def most_open() -> int:
    """How many files may stay open, of those that the system lets this process open; it may let it open any number."""
    try:
        resource: Any = import_module("resource")
    except ImportError:  # Windows
        return MOST
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if limit < 0 else max(1, min(MOST, limit // SHARE))


def _too_many(error: OSError, path: Path) -> bool:
    """Whether the system's limit is the reason; safetensors says then that a file is not found, without a number."""
    return error.errno in (errno.EMFILE, errno.ENFILE) or (error.errno is None and path.is_file())
