"""Measurements: numbers with units as JSON in ``results/``, and the same as Markdown tables for ``docs/``.

A measurement has tables by name, a table has columns and rows, a row has cells by the keys of the columns:

- a *figure* is a number, a text, null, or a mapping of ``value`` with ``low`` and ``high`` (a range over seeds or
  repeats) and ``best`` (shown in bold);
- a *cell* is a figure, a mapping of figures that the column's pattern names, or a list of cells.

Patterns are those of ``str.format``; a figure alone is called ``value``. Beside Python's format specs there are ``~2``
(two decimals, above 1,000 none), ``−.3f`` (with the typographic minus), ``.1f %`` (a share as "25.0 %") and ``.3f to``
(ranges as "(low to high)" in place of "[low, high]"). A cell may bring its own pattern as ``cell``. A row without the
cell of a column ends there.
"""

import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
NONE = "–"
FIGURE = {"value", "low", "high", "best"}
WIDEST, ROW = 150, 4
"""Characters of JSON on one line, and the depth from which everything stays on one: a row or a column."""


@dataclass(frozen=True)
class Column:
    """A column: where its cells are in a row, its head, and how a cell is written."""

    key: str
    name: str
    cell: str = "{value}"
    unit: str = ""
    missing: str = NONE
    """What stands where a cell is null."""
    once: bool = False
    """Whether a text that is also that of the row above is left out."""


@dataclass(frozen=True)
class Table:
    """Rows under columns, or, with ``line``, a list with one line a row."""

    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    caption: str = ""
    line: str = ""
    """Pattern of a line of a list."""

    def markdown(self) -> str:
        """As it stands on a page."""
        if self.line:
            return "\n".join(f"- {FIGURES.format(self.line, **row)}" for row in self.rows)
        rows = map(self._cells, self.rows, [{}, *self.rows])
        return markdown([column.name for column in self.columns], rows)

    def _cells(self, row: Mapping[str, Any], above: Mapping[str, Any]) -> list[str]:
        there = takewhile(lambda column: column.key in row, self.columns)
        return [self._cell(row[column.key], above.get(column.key), column) for column in there]

    @staticmethod
    def _cell(cell: Any, above: Any, column: Column) -> str:
        return "" if column.once and cell == above else cell_text(cell, column)


@dataclass(frozen=True)
class Measurement:
    """What was measured, when, where and how."""

    title: str
    date: str | None
    machine: Mapping[str, Any]
    commands: tuple[str, ...]
    tables: Mapping[str, Table]
    notes: tuple[str, ...] = field(default=())


# ---- Markdown --------------------------------------------------------------------------------------------------------


class Figures(string.Formatter):
    """Writes figures."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """A figure by a spec; the items of a list one after the other."""
        if value is None or isinstance(value, str):
            return NONE if value is None else value
        if isinstance(value, list | tuple):
            return ", ".join(self.format_field(each, format_spec) for each in value)
        if isinstance(value, Mapping):
            return self._ranged(value, format_spec)
        return number_text(value, format_spec)

    def _ranged(self, figure: Mapping[str, Any], spec: str) -> str:
        text = self.format_field(figure["value"], spec)
        if "low" in figure:
            low, high = (self.format_field(figure[end], spec) for end in ("low", "high"))
            text += f" ({low} to {high})" if spec.endswith(" to") else f" [{low}, {high}]"
        return f"**{text}**" if figure.get("best") else text


FIGURES = Figures()


def number_text(value: float, spec: str) -> str:
    """A number by a spec of Python's or of this module's."""
    spec, _, style = spec.partition(" ")
    if style == "%":
        return f"{100 * value:{spec}} %"
    if spec.startswith("~"):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.{spec[1:]}f}"
    if spec.startswith("−"):
        return f"{value:{spec[1:]}}".replace("-", "−")
    return f"{value:{spec}}"


def cell_text(cell: Any, column: Column) -> str:
    """A cell as Markdown."""
    if cell is None:
        return column.missing
    if isinstance(cell, str):
        return cell
    if isinstance(cell, list | tuple):
        return "; ".join(cell_text(each, column) for each in cell)
    fields = cell if isinstance(cell, Mapping) and not cell.keys() <= FIGURE else {"value": cell}
    return FIGURES.format(fields.get("cell", column.cell), **fields)


def markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Texts as a Markdown table."""
    return "\n".join([row_line(names), "|" + "---|" * len(names), *map(row_line, rows)])


def row_line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


# ---- JSON ------------------------------------------------------------------------------------------------------------


def write_measurement(path: Path, measurement: Measurement) -> None:
    """Write a measurement as JSON, a row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pretty(as_json(measurement)) + "\n", encoding="utf-8")


def as_json(measurement: Measurement) -> dict[str, Any]:
    """A measurement as JSON has it; what is empty or a default is left out."""
    head = {key: value for key, value in vars(measurement).items() if key != "tables" and value != ()}
    return head | {"tables": {name: _table_json(table) for name, table in measurement.tables.items()}}


def _table_json(table: Table) -> dict[str, Any]:
    parts = {"caption": table.caption, "line": table.line, "columns": list(map(_column_json, table.columns))}
    return {key: value for key, value in parts.items() if value} | {"rows": list(table.rows)}


def _column_json(column: Column) -> dict[str, Any]:
    plain = Column("", "")
    always = ("key", "name")
    return {key: value for key, value in vars(column).items() if key in always or value != getattr(plain, key)}


def pretty(value: Any, indent: str = "") -> str:
    """JSON with a row a line; above rows a container opens where it is too long for one."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, dict | list | tuple) or len(line) <= WIDEST or len(indent) >= ROW:
        return line
    opened, parts, closed = "[", list(_items(value, indent + " ")), "]"
    if isinstance(value, dict):
        opened, closed = "{", "}"
    return "\n".join([opened, ",\n".join(f"{indent} {part}" for part in parts), indent + closed])


def _items(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{json.dumps(key, ensure_ascii=False)}: {pretty(each, indent)}" for key, each in value.items())
    else:
        yield from (pretty(each, indent) for each in value)


def read_measurement(path: Path) -> Measurement:
    """Read a measurement."""
    found = json.loads(path.read_text(encoding="utf-8"))
    tables = {name: _read_table(table) for name, table in found["tables"].items()}
    lists = {key: tuple(found.get(key, ())) for key in ("commands", "notes")}
    return Measurement(found["title"], found["date"], found["machine"], tables=tables, **lists)


def _read_table(found: Mapping[str, Any]) -> Table:
    columns = tuple(Column(**each) for each in found.get("columns", ()))
    return Table(columns, tuple(found["rows"]), found.get("caption", ""), found.get("line", ""))
