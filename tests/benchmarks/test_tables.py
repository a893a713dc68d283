"""The tables of the pages are those of the measurements."""

import subprocess
import sys
from pathlib import Path

import pytest
import tables
from measurements import RESULTS, Column, Measurement, Table, read_measurement, write_measurement

from places import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "tables.py"
PAGE = "# Speed\n\nAbove.\n\n<!-- table: speed/runs -->\nold\n<!-- end -->\n\nBelow.\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a measurement, and a page that shows it in an older state."""
    runs = Table((Column("way", "way"), Column("s", "seconds", "{value:.1f}")), ({"way": "sweep", "s": 1.25},))
    write_measurement(tmp_path / "results" / "speed.json", Measurement("Speed", None, {}, (), {"runs": runs}))
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    (tmp_path / "docs" / "sub" / "speed.md").write_text(PAGE)
    (tmp_path / "docs" / "other.md").write_text("no table")
    return tmp_path


def run(place: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    words = ["--docs", str(place / "docs"), "--from", str(place / "results"), *more]
    return subprocess.run([sys.executable, str(SCRIPT), *words], check=False, capture_output=True, text=True)


def test_every_page_of_the_repository_is_what_its_measurements_give() -> None:
    pages = tables.pages(tables.DOCS)
    assert pages
    for page in pages:
        assert tables.made(page, RESULTS) == page.read_text(encoding="utf-8"), f"run {SCRIPT.name}"


def test_every_measurement_of_the_repository_says_how_it_was_made() -> None:
    found = [read_measurement(path) for path in sorted(RESULTS.glob("*.json"))]
    assert found
    for each in found:
        assert each.title
        assert each.machine.keys() >= {"cpu", "cores", "gpu"}
        assert each.commands or each.notes
        assert each.tables


def test_a_stale_page_is_named_and_left_and_then_made_anew(place: Path) -> None:
    page = place / "docs" / "sub" / "speed.md"
    checked = run(place, "--check")
    assert checked.returncode == 1
    assert "speed.md" in checked.stdout
    assert page.read_text() == PAGE
    assert run(place).returncode == 0
    table = "| way | seconds |\n|---|---|\n| sweep | 1.2 |"
    assert page.read_text() == PAGE.replace("\nold\n", f"\n\n{table}\n\n")
    assert run(place, "--check").returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("speed/runs", "speed/walks", "speed.json has runs"),
        ("speed/runs", "sped/runs", "there is no"),
        ("<!-- end -->", "", "needs its <!-- end -->"),
    ],
)
def test_a_table_that_cannot_be_made_is_said_and_nothing_written(old: str, new: str, told: str, place: Path) -> None:
    page = place / "docs" / "sub" / "speed.md"
    page.write_text(PAGE.replace(old, new))
    done = run(place)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert page.read_text() == PAGE.replace(old, new)
