"""English text that every Python installation carries: the language reference and the docstrings of the library.

Source: `pydoc_data.topics` (what `help("for")` prints) and the `.py` files of the standard library, read with `ast`
and never imported. One document is one topic or one module. A document belongs to the training, the calibration or the
held-out part by the hash of its name, so the parts stay the same from one Python version to the next. The topics quote
each other at length, so a paragraph that was seen is dropped wherever it comes again, in whichever part; held-out text
is served first.
"""

import ast
import hashlib
import importlib
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from remodeler.errors import InputError

Part = Literal["train", "calibration", "heldout"]
PARTS: tuple[Part, ...] = ("heldout", "calibration", "train")

SHORTEST_PARAGRAPH = 40
"""Characters; what is shorter ("For example:") repeats by nature and is neither counted nor compared."""

SALT = 11
"""Of the first 30 salts, the one whose parts are closest to 90, 5 and 5 % of all characters (Python 3.11)."""

SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "turtledemo",
    "encodings",
    "pydoc_data",
    "__pycache__",
}


def texts(part: Part) -> list[str]:
    """The documents of one part, in the order of their names; about 90, 5 and 5 % of all documents."""
    if part not in PARTS:
        raise InputError(f"there is no part {part!r} of the Python documentation: use one of {', '.join(PARTS)}")
    return list(_parts()[part])


def part_of(name: str) -> Part:
    """The part to which the document of this name belongs."""
    percent = int.from_bytes(hashlib.sha256(f"{SALT} {name}".encode()).digest()[:8], "big") % 100
    return "heldout" if percent < 5 else "calibration" if percent < 10 else "train"


@cache
def _parts() -> dict[Part, tuple[str, ...]]:
    documents = dict(sorted([*_topics(), *_modules(Path(sysconfig.get_path("stdlib")))]))
    seen: set[str] = set()
    parts = {part: tuple(_unseen(documents, part, seen)) for part in PARTS}
    if not all(parts.values()):
        raise InputError(
            "this Python installation carries no documentation (pydoc_data.topics and the .py files of "
            "the standard library were expected): give a text file instead"
        )
    return parts


def _unseen(documents: dict[str, list[str]], part: Part, seen: set[str]) -> Iterator[str]:
    """The documents of one part, without the paragraphs in `seen`, which grows."""
    for name, pieces in documents.items():
        if part_of(name) == part:
            kept = [piece for piece in (_without(piece, seen) for piece in pieces) if piece]
            if kept:
                yield "\n\n".join(kept)


def _without(piece: str, seen: set[str]) -> str:
    """The piece without the paragraphs in `seen`, which grows; empty if no paragraph worth its while remains."""
    paragraphs = [paragraph for paragraph in piece.split("\n\n") if _key(paragraph) not in seen]
    new = {_key(paragraph) for paragraph in paragraphs if len(_key(paragraph)) >= SHORTEST_PARAGRAPH}
    seen |= new
    return "\n\n".join(paragraphs).strip() if new else ""


def _key(paragraph: str) -> str:
    """What two paragraphs share that differ in line breaks and indentation only."""
    return " ".join(paragraph.split())


def _topics() -> Iterator[tuple[str, list[str]]]:
    """Every topic of the language reference; some distributions leave them out."""
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        return
    for name, text in topics.items():
        yield f"topic {name}", [_clean(text)]


def _modules(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every module of the standard library with its docstrings, in the order of the file."""
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if not SKIPPED_FOLDERS.intersection(parts):
            yield f"module {'.'.join(parts)}", _docstrings(path)


def _docstrings(path: Path) -> list[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # odd escapes: no warning, also where it were an error
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []  # a file for another Python version, or one that may not be read
    owners = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    owners.sort(key=lambda node: getattr(node, "lineno", 0))
    return [_clean(text) for text in (ast.get_docstring(node, clean=False) for node in owners) if text]


def _clean(text: str) -> str:
    lines = (line.rstrip() for line in inspect.cleandoc(text).splitlines())
    return "\n".join(lines)
