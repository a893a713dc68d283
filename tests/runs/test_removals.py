"""The removal log: what is written is read again, what can't have happened is refused, pages see what stands there."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remodeler.errors import InputError
from remodeler.runs.removals import (
    REMOVALS_FILE,
    Change,
    Header,
    LogLine,
    Step,
    blocks_of,
    copy_log,
    copy_steps,
    names_gone,
    perplexities,
    read_changes,
    read_log,
    read_log_lines,
    resume_log,
    units_of,
    write_header,
    write_step,
)
from remodeler.runs.units import Block, Unit, loose_blocks

HEADER: Header = {
    "step": 0,
    "perplexity": 8.0,
    "parameters": 100,
    "candidates": 8,
    "name": "model",
    "model": {"weights": "a"},
    "texts": {"sha256": "b"},
    "options": {"unit": "block"},
    "seconds": 1.0,
}
A0, A1, M1 = Block(0, "attention"), Block(1, "attention"), Block(1, "mlp")
STEPS = [
    Step(1, (A0,), {"attention.0": 9.0, "mlp.1": None}, 9.0, 90, 1.0),
    Step(2, (A1, M1), {"attention.1+mlp.1": 10.0}, math.inf, 70, 2.0, windows={"attention.1+mlp.1": 4}),
    Step(3, (Block(2, "mlp"),), {}, 9.5, 80, 1.0, restored=(A0,)),
]


def lines(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / REMOVALS_FILE
    write_header(path, HEADER)
    for step in STEPS:
        write_step(path, step)
    return path


def test_what_is_written_is_read_again(log: Path) -> None:
    assert read_log(log) == (HEADER, STEPS)
    assert read_changes(log) == (HEADER, [Change(step.removed, step.restored) for step in STEPS])


def test_a_line_torn_by_a_kill_is_left_out_and_cut_off(log: Path) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"step": 4, "rem')
    assert len(read_log(log)[1]) == len(read_changes(log)[1]) == len(read_log_lines(log)) - 1 == 3
    assert resume_log(log, HEADER) == (HEADER, STEPS)
    assert log.read_bytes() == whole


def test_a_log_is_copied_whole_or_up_to_a_step(log: Path, tmp_path: Path) -> None:
    copy_log(log, tmp_path / "whole", HEADER)
    assert (tmp_path / "whole").read_bytes() == log.read_bytes()
    copy_steps(log, tmp_path / "part", 1)
    assert read_log(tmp_path / "part") == (HEADER, STEPS[:1])


@pytest.mark.parametrize("part", ["model", "texts", "options"])
def test_a_log_of_another_search_is_refused(log: Path, tmp_path: Path, part: str) -> None:
    other: Any = {**HEADER, part: {"other": 1}}
    with pytest.raises(InputError, match=f"another {part}"):
        resume_log(log, other)
    with pytest.raises(InputError, match=f"another {part}"):
        copy_log(log, tmp_path / "copy", other)
    assert not (tmp_path / "copy").exists()


UNITS: list[Unit] = [(Block(layer, kind),) for layer in range(3) for kind in ("attention", "mlp")]


@st.composite
def paths(draw: st.DrawFn) -> list[Change]:
    """Removals and swaps that can follow each other."""
    gone: list[Unit] = []
    found = []
    for _ in range(draw(st.integers(0, 8))):
        there = [unit for unit in UNITS if unit not in gone]
        if not there:
            break
        removed = draw(st.sampled_from(there))
        restored = draw(st.sampled_from([(), *gone]))
        gone = [unit for unit in gone if unit != restored] + [removed]
        found.append(Change(removed, restored))
    return found


@settings(deadline=None)
@given(paths())
def test_what_is_gone_is_all_that_went_and_did_not_come_back(path: list[Change]) -> None:
    last = {block: step for step, change in enumerate(path) for block in change.removed}
    back = {block: step for step, change in enumerate(path) for block in change.restored}
    gone = {block for block in last if last[block] >= back.get(block, -1)}
    assert set(blocks_of(path)) == gone
    assert sorted(blocks_of(path), key=last.__getitem__) == blocks_of(path), "in the order it went"
    assert [block for unit in units_of(path) for block in unit] == blocks_of(path)
    named = [{"removed": list(map(str, each.removed)), "restored": list(map(str, each.restored))} for each in path]
    assert [set(), *names_gone(map(LogLine, named))][-1] == set(map(str, gone))


IMPOSSIBLE = [
    ([{"step": 2, "removed": ["mlp.0"]}], "step 1 was expected in line 2"),
    (["mlp.0"], "step 1 was expected in line 2"),
    ([{"step": 1, "removed": "mlp.0"}], "lists of blocks were expected in line 2"),
    ([{"step": 1, "removed": [0]}], "lists of blocks were expected in line 2"),
    ([{"step": 1}], "lists of blocks were expected in line 2"),
    ([{"step": 1, "removed": ["head.0"]}], "'head.0' is not a block"),
    ([{"step": 1, "removed": ["mlp.\N{ARABIC-INDIC DIGIT ONE}"]}], "is not a block"),
    ([{"step": 1, "removed": [f"mlp.{'1' * 5000}"]}], "is not a block"),
    ([{"step": 1, "removed": ["mlp.0"]}, {"step": 2, "removed": ["mlp.0"]}], "step 2 of .* removes what is gone"),
    ([{"step": 1, "removed": ["mlp.0"], "restored": ["mlp.1"]}], "step 1 of .* puts back what is there"),
]


@pytest.mark.parametrize(("steps", "words"), IMPOSSIBLE, ids=[words for _, words in IMPOSSIBLE])
def test_every_reader_refuses_the_same_impossible_steps(steps: list[Any], words: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "log", HEADER, *steps)
    for reader in (read_log, read_changes):
        with pytest.raises(InputError, match=words):
            reader(path)


@pytest.mark.parametrize("header", [None, [1], {"text": "a"}, {"step": 1}])
def test_another_file_is_no_log(header: Any, tmp_path: Path) -> None:
    path = lines(tmp_path / "log", *([] if header is None else [header]))
    for reader in (read_log, read_changes):
        with pytest.raises(InputError, match=r"is not a removal log: give the removals\.jsonl of a pruned model"):
            reader(path)


def test_a_search_needs_what_was_measured_and_an_export_does_not(tmp_path: Path) -> None:
    path = lines(tmp_path / "log", {"step": 0}, {"step": 1, "removed": ["mlp.1"]})
    assert read_changes(path) == ({"step": 0}, [Change((M1,))])
    with pytest.raises(InputError, match="is not a removal log of this version"):
        read_log(path)
    half = lines(tmp_path / "half", HEADER, {"step": 1, "removed": ["mlp.1"], "perplexity": 9.0})
    with pytest.raises(InputError, match="is not a removal log of this version"):
        read_log(half)


def test_a_page_sees_the_lines_as_they_stand(tmp_path: Path) -> None:
    odd = {"step": "two", "removed": ["decoder.cross.1", 5], "importance": None, "perplexity": "high"}
    empty, first = read_log_lines(lines(tmp_path / "log", {}, odd))
    assert (empty.number(7), empty.removed, empty.restored, dict(empty.importance)) == (7, [], [], {})
    assert (first.number(7), first.removed, dict(first.importance)) == ("two", ["decoder.cross.1", "5"], {})
    assert (first.get("perplexity"), first.get("seconds")) == ("high", None)
    assert read_log_lines(tmp_path / "nothing") == []
    assert loose_blocks("decoder.cross.1+mlp.2+mlp.x") == [("decoder.cross", 1), ("mlp", 2)]


def test_perplexities_are_known_where_every_line_says_one() -> None:
    known = [LogLine({"perplexity": value}) for value in (8, 9.5, None, "high", True)]
    assert perplexities(known) == [8, 9.5, math.inf, math.inf, math.inf]
    assert perplexities([*known, LogLine({})]) is None
    assert perplexities([]) == []
