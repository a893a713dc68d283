"""What a verb found, and how it is shown: each verb has a frozen dataclass in its ``results.py``, which owns its words.

The page, the cards and the tables ask these objects and know no key of ``record.json`` themselves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from remodeler.reporting.figures import Measured, Tile, Values, comparison, text_table, tiles
from remodeler.runs.records import Record

PLACED: Mapping[str, Any] = {"placed": True}
"""Metadata of a field that is not listed with the rest of the page: it has a place of its own, or needs none."""
NULL: Mapping[str, Any] = {"null": True}
"""Metadata of a field that stands in the record where it is None, too; others are left out there."""
UNKNOWN = "A model"
"""What pages call one whose name no record tells."""


def stored_as(key: str) -> Mapping[str, Any]:
    """Metadata of a field that has another name in the record."""
    return {"key": key}


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    template: str
    """What shows it: a path inside the package."""
    values: Values
    """By the names that the template has for them."""


class Results(Protocol):
    """What a verb found. A dataclass that inherits this overrides what its page has to say.

    Its fields are the record's ``results`` in their order; what a record may lack has a default.
    """

    how: ClassVar[str] = "made"
    """How it came about, in a word: made or measured."""
    of_models: ClassVar[bool] = False
    """Whether :meth:`figures` are of models, by their names; else of stages of one, the first being its source."""

    def __str__(self) -> str:
        """The figures as a table, for notebooks and prompts; where there are none, all values."""
        drawn = comparison(self.figures())
        return text_table(drawn) if drawn else repr(self)

    @property
    def command(self) -> str:
        """The command as it was given; empty where the record's options tell it. Fields of this name have a default."""
        return ""

    @property
    def warning(self) -> Values | None:
        """That the result is of no use, and the command that makes a better one."""
        return None

    @classmethod
    def parse(cls, record: Record) -> Self:
        """The results of a record.

        Raises:
            TypeError: when it lacks one that has no default.
        """
        given = record.results
        return cls(**{each.name: given[key] for key, each in _keyed(cls) if key in given})

    def to_record(self) -> dict[str, Any]:
        """The ``results`` of a record."""
        values = [(key, getattr(self, each.name), each) for key, each in _keyed(type(self))]
        return {key: value for key, value, each in values if value is not None or each.metadata.get("null")}

    def others(self, record: Record) -> dict[str, Any]:
        """What has no place of its own on the page, as it is; also what this version knows nothing of."""
        placed = {key for key, each in _keyed(type(self)) if each.metadata.get("placed")} | {"command", "warning"}
        return {key: value for key, value in record.results.items() if key not in placed}

    def title(self, record: Record) -> str:
        """The models the page is about."""
        return title_of(source(record))

    def lead(self, record: Record, folder: Path) -> str:
        """What happened, in a few sentences."""
        return ""

    def tiles(self) -> list[Tile]:
        """The headline figures."""
        return tiles(self.figures()[-2:])

    def figures(self) -> Measured:
        """Measurements side by side: of models, or of one before and after."""
        return []

    def block_map(self, folder: Path) -> list[dict[str, Any]]:
        """Groups of layers with the step that removed each block, as pages draw them, where some were removed."""
        return []

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """The parts of the page, in their order; logs are in the folder."""
        return []

    def card(self, record: Record) -> str | None:
        """The text of ``README.md``, for results that have one."""
        return None


def _keyed(cls: Any) -> Iterator[tuple[str, Field[Any]]]:
    """The fields of a dataclass, each with its key in the record."""
    return ((each.metadata.get("key", each.name), each) for each in fields(cls))


def stages(**measured: Values | None) -> Measured:
    """Measurements by the name of their stage, as far as they are known."""
    return [(name, each) for name, each in measured.items() if each]


def title_of(*models: str) -> str:
    """The title of a page about some models, given by path or hub id."""
    return " and ".join(name.rstrip("/").rsplit("/", 1)[-1] or UNKNOWN for name in models) or UNKNOWN


def source(record: Record) -> str:
    """The path or hub id of the model that a result was made of; empty where the record tells none."""
    given = record.inputs.get("model") or record.inputs.get("reviser")
    if isinstance(given, Mapping):
        given = next((given[key] for key in ("name", "path", "id") if given.get(key)), "")
    return str(given or "")
