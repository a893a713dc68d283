"""How figures are written, and that JSON gives back what it was given."""

from pathlib import Path
from typing import Any

import pytest
from measurements import Column, Measurement, Table, cell_text, read_measurement, write_measurement

RANGE = {"value": 1632.4, "low": 9.5, "high": 20000}


@pytest.mark.parametrize(
    ("cell", "pattern", "text"),
    [
        (7.444, "{value:.2f}", "7.44"),
        (-0.0, "{value:+.3f}", "-0.000"),
        (1632.4, "{value:~2}", "1,632"),
        (999.994, "{value:~2}", "999.99"),
        (RANGE, "{value:~2}", "1,632 [9.50, 20,000]"),
        (RANGE, "{value:,.0f to}", "1,632 (10 to 20,000)"),
        ({"value": 8.18, "best": True}, "{value:~2}", "**8.18**"),
        (RANGE | {"best": True}, "{value:~1}", "**1,632 [9.5, 20,000]**"),
        ({"value": {"value": 8.18, "best": True}, "share": 0.168}, "{value:~2} ({share:.1%})", "**8.18** (16.8%)"),
        (0.682, "{value:.1f %}", "68.2 %"),
        (1.0, "{value:g %}", "100 %"),
        (-0.0012, "{value:−+.4f}", "−0.0012"),
        ({"seeds": [0.0058, None]}, "{seeds:+.4f}", "+0.0058, –"),
        (
            [{"gap": 0.1, "error": 0.02}, {"gap": -0.1, "error": 0.03}],
            "{gap:+.1f} ± {error}",
            "+0.1 ± 0.02; -0.1 ± 0.03",
        ),
        ({"value": 12.95, "cell": "{value} GB"}, "{value:.0f}", "12.95 GB"),
        ("not reached", "{value:.2f}", "not reached"),
        (None, "{value:.2f}", "–"),
    ],
)
def test_a_cell_is_written_by_its_pattern(cell: Any, pattern: str, text: str) -> None:
    assert cell_text(cell, Column("key", "name", pattern)) == text


def test_a_row_ends_where_its_cells_end_and_a_repeated_text_stands_once() -> None:
    columns = Column("model", "model", once=True), Column("step", "step"), Column("time", "s", missing="")
    rows = {"model": "a", "step": 1, "time": None}, {"model": "a", "step": 2, "time": 3}, {"model": "b", "step": "–"}
    lines = Table(columns, rows).markdown().splitlines()
    assert lines == ["| model | step | s |", "|---|---|---|", "| a | 1 | |", "| | 2 | 3 |", "| b | – |"]


def test_a_list_has_a_line_a_row() -> None:
    rows = {"method": "one", "share": 0.25, "blocks": ["a1", "m2"]}, {"method": "two", "share": 0.5, "blocks": ["m2"]}
    table = Table((), rows, line="{method} ({share:.0%}): {blocks}")
    assert table.markdown() == "- one (25%): a1, m2\n- two (50%): m2"


def test_json_gives_back_a_measurement(tmp_path: Path) -> None:
    columns = Column("what", ""), Column("time", "time", "{value:.1f}", "s", missing="", once=True)
    rows = ({"what": "“plain”", "time": RANGE}, {"what": "x" * 400, "time": None})
    tables = {"times": Table(columns, rows, "Times:"), "order": Table((), ({"name": "a"},), line="{name}")}
    written = Measurement("A title", "2026-11-29", {"cpu": "one", "gpu": None}, ("python x.py",), tables, ("a note",))
    write_measurement(tmp_path / "deep" / "one.json", written)
    assert read_measurement(tmp_path / "deep" / "one.json") == written
    text = (tmp_path / "deep" / "one.json").read_text(encoding="utf-8")
    assert sum('"what": ' in line for line in text.splitlines()) == len(rows), "a row is a line"
