"""Every script of benchmarks/ says what it measures, and what they share does what it says."""

import runpy
import sys
from pathlib import Path

import common
import pytest
from measurements import Column, Table, read_measurement

from places import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"
SCRIPTS = [path.name for path in sorted(FOLDER.glob("*.py")) if "\nif __name__ ==" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_tells_the_claim(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert not stop.value.code
    first = (FOLDER / name).read_text(encoding="utf-8").lstrip('r"').partition("\n")[0]
    assert first in capsys.readouterr().out


def test_actions_take_turns_and_first_rounds_do_not_count() -> None:
    calls: list[str] = []
    runs = common.in_turns({name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}, 2, warm_up=1)
    assert calls == ["a", "b"] * 3
    assert {name: [run.value for run in each] for name, each in runs.items()} == {"a": [3, 5], "b": [4, 6]}
    assert all(run.seconds >= 0 and run.processor >= 0 for each in runs.values() for run in each)


def test_a_spread_is_the_middle_with_its_range_and_one_value_is_itself() -> None:
    assert common.spread([3.0, 1.0, 2.5]) == {"value": 2.5, "low": 1.0, "high": 3.0}
    assert common.spread([4.0]) == 4.0


def test_rows_of_earlier_runs_are_read_without_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert common.read_rows(path) == []
    path.write_text('{"a": 1}\n{"a": ')
    assert common.read_rows(path) == [{"a": 1}]
    assert common.write_once(path, [{"a": 2}]).read_text() == '{"a": 1}\n'


def test_results_are_printed_and_written_in_the_schema_of_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks/some.py", "--results", "some"])
    given = common.new_parser("What is claimed.\n\nMore.").parse_args()
    table = Table((Column("s", "seconds", "{value:.1f}"),), ({"s": 0.25},), "Caption")
    common.publish(given, {"runs": table}, "tiny")
    assert "Caption\n\n| seconds |\n|---|\n| 0.2 |" in capsys.readouterr().out
    found = read_measurement(tmp_path / "some-tiny.json")
    assert found.tables == {"runs": table}
    assert found.title == "What is claimed. (tiny)"
    assert found.commands == ("python benchmarks/some.py --results some",)
    assert found.machine.keys() >= {"cpu", "cores", "threads", "gpu", "torch"}
