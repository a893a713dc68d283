"""Progress: a bar where a person looks, lines in the log elsewhere, and nothing of processes that are not the first."""

import logging

import pytest

from remodeler.runs import processes, progress
from remodeler.runs.progress import ProgressLines, part, progress_bar
from remodeler.runs.terminal import Screen
from terminals import MARKUP, stream_of, written


def drawn(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """The terminal that bars are drawn on."""
    screen = Screen(file=stream_of("utf-8"), force_terminal=True, width=200)
    monkeypatch.setattr(progress, "ERR", screen)
    return screen


def test_a_bar_shows_names_letter_by_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = drawn(monkeypatch)
    with progress_bar(MARKUP) as progress:
        progress(0.5, "[/dim] of it")
    text = written(screen.file)  # type: ignore[arg-type]
    assert MARKUP in text
    assert "[/dim] of it" in text


def test_without_a_terminal_a_line_is_logged_every_half_a_minute(messages: pytest.LogCaptureFixture) -> None:
    seconds = 0.0
    progress = ProgressLines("searching", lambda: seconds)
    for seconds in range(1, 101):
        progress(seconds / 200, f"step {seconds}")
    assert messages.messages == [
        "searching: 15%, about 3 min left, step 30",
        "searching: 30%, about 2 min left, step 60",
        "searching: 45%, about 2 min left, step 90",
    ]
    assert {record.levelno for record in messages.records} == {logging.INFO}


def test_the_time_left_is_that_of_the_pace_since_a_run_was_resumed(messages: pytest.LogCaptureFixture) -> None:
    times = iter((0.0, 10.0, 40.0, 70.0))
    progress = ProgressLines("training", lambda: next(times))
    for share in (0.8, 0.85, 0.9):
        progress(share, "")
    assert messages.messages == ["training: 85%, about 90 s left", "training: 90%, about 60 s left"]


def test_the_first_call_tells_no_pace(messages: pytest.LogCaptureFixture) -> None:
    times = iter((0.0, 40.0))
    ProgressLines("training", lambda: next(times))(0.25, "loss 2")
    assert messages.messages == ["training: 25%, loss 2"]


def test_short_work_is_quiet(messages: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("working") as progress:
        progress(1.0, "done")
    assert messages.messages == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("looking", [True, False])
def test_of_several_processes_only_the_first_shows_progress(
    looking: bool, monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    screen = drawn(monkeypatch) if looking else None
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    for first in (False, True):
        monkeypatch.setattr(processes, "is_first", lambda first=first: first)
        with progress_bar("working") as heard:
            heard(0.5, "half")
        shown = written(screen.file) if screen else messages.text  # type: ignore[arg-type]
        assert ("working" in shown) is first


def test_a_part_of_the_work_has_its_share_of_the_whole() -> None:
    heard: list[tuple[float, str]] = []
    inner = part(lambda share, words: heard.append((share, words)), 0.5, 0.25, "step 3")
    inner(0.0, "")
    inner(0.5, "")
    inner(1.0, "")
    assert heard == [(0.5, "step 3"), (0.625, "step 3"), (0.75, "step 3")]
    part(lambda share, words: heard.append((share, words)), 0.9, 0.2)(1.0, "words of its own")
    assert heard[-1] == (1.0, "words of its own")
