"""A GGUF model in one file, or in several as ``llama-gguf-split`` makes them: NAME-00001-of-00003.gguf and so on."""

import re
from collections.abc import Iterator
from pathlib import Path

from remodeler.errors import InputError
from remodeler.model.files.gguf.header import Header, read_header
from remodeler.model.files.gguf.values import Raw, printable

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def read_whole(path: Path) -> Header:
    """Keys and tensors of a file; given the first of a split set, those of all its parts.

    Raises:
        InputError: when a part is missing, or another one than the first is given.
    """
    first = read_header(path)
    count = _number(first, COUNT, 1)
    if count <= 1:
        return first
    parts = [first, *(_part(first, place, count) for place in _others(first, count))]
    tensors: dict[str, Raw] = {}
    for part in parts:
        if twice := next((name for name in part.tensors if name in tensors), None):
            raise InputError(f"{part.path} has {printable(twice)}, which an earlier part has too: get the set again")
        tensors |= part.tensors
    wanted = _number(first, TENSORS, len(tensors))
    if wanted != len(tensors):
        raise InputError(f"the parts of {path} have {len(tensors)} tensors, {wanted} were expected: get the set again")
    return Header(path, first.keys, tensors, tuple(part.path for part in parts))


def _number(header: Header, name: str, default: int) -> int:
    key = header.keys.get(name)
    if key is None:
        return default
    if not isinstance(key.value, int):
        raise InputError(f"{header.path} has a {name} that is no number: get the file again")
    return key.value


def _others(first: Header, count: int) -> Iterator[tuple[int, Path]]:
    """The other parts, by their names."""
    found = NAME.fullmatch(first.path.name)
    if found is None or int(found[3]) != count:
        raise InputError(
            f"{first.path} is one of {count} files, which are found by their names: give it back the name that it "
            f"had, NAME-00001-of-{count:05}.gguf"
        )
    start = f"{found[1]}-00001-of-{count:05}.gguf"
    if first.path.name != start or _number(first, NUMBER, 0) != 0:
        raise InputError(f"{first.path} is one of {count} files and not the first: give {first.path.with_name(start)}")
    for place in range(1, count):
        yield place, first.path.with_name(f"{found[1]}-{place + 1:05}-of-{count:05}.gguf")


def _part(first: Header, place: tuple[int, Path], count: int) -> Header:
    number, path = place
    if not path.is_file():
        raise InputError(f"{path} is not there, part {number + 1} of {count} of the model: get that file")
    part = read_header(path)
    if _number(part, NUMBER, -1) != number or _number(part, COUNT, -1) != count:
        raise InputError(f"{path} is not part {number + 1} of {count} of {first.path}: get that file again")
    return part
