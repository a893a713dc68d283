"""What the command shows is its letters, on any terminal; the messages of the library are shown as its notes are."""

import logging
import sys

import pytest

from remodeler.cli import screen
from remodeler.cli.screen import messages_as_notes, note, say, table
from remodeler.runs import progress, terminal
from remodeler.runs.progress import progress_bar
from remodeler.runs.streams import spell
from terminals import MARKUP, stream_of, written

logger = logging.getLogger("remodeler.somewhere")


@pytest.mark.parametrize("place", ["title", "column", "cell", "line", "note", "message"])
def test_nothing_in_a_name_is_markup(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    if place == "line":
        say(MARKUP)
    elif place == "note":
        note(MARKUP)
    elif place == "message":
        with messages_as_notes():
            logger.info(MARKUP)
    else:
        given = {name: MARKUP if name == place else "1" for name in ("title", "column", "cell")}
        table(given["title"], ["", given["column"]], [["rows", given["cell"]]])
    assert MARKUP in "".join(capsys.readouterr())


def test_messages_are_notes_as_long_as_the_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger("remodeler")
    before = library.level, library.propagate, list(library.handlers)
    with messages_as_notes():
        logger.info("one %s", "thing")
        logger.warning("two\nthings")
        logger.debug("not this")
        logging.getLogger("another").warning("nor this")
    logger.info("nor that")
    assert capsys.readouterr() == ("", "one thing\ntwo\\nthings\n")
    assert (library.level, library.propagate, list(library.handlers)) == before


def test_a_message_stands_above_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = terminal.Screen(file=stream_of("utf-8"), force_terminal=True, width=200)
    for module in (screen, progress):
        monkeypatch.setattr(module, "ERR", drawn)
    with messages_as_notes(), progress_bar("working"):
        logger.info("a message")
    lines = [line for line in written(drawn.file).splitlines() if "a message" in line]  # type: ignore[arg-type]
    assert [line.endswith("a message") for line in lines] == [True]


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"-5 \xe9 \u6771"), ("cp1252", r"-5 é \u6771")])
def test_a_terminal_gets_only_characters_that_it_has(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spell("\N{MINUS SIGN}5 é 東", encoding) == shown
    stream = stream_of(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    table("", ["", "\N{MINUS SIGN}5 é 東"], [["rows", "1"]])
    text = written(stream)
    assert shown in text
    assert len({len(line) for line in text.splitlines()}) == 1, "rows are equally long"


def test_a_narrow_file_has_whole_numbers_and_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    table("", ["", "n" * 300], [["Parameters", "1,234,567,890"]])
    assert {"n" * 300, "1,234,567,890"} <= set(capsys.readouterr().out.split())


def test_a_narrow_terminal_gets_a_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = terminal.Screen(file=stream_of("utf-8"), force_terminal=True, color_system=None, width=20)
    monkeypatch.setattr(screen, "OUT", narrow)
    table("", ["", "[before]", "after"], [["Parameters", "1234567890", ""], ["KV", "1 B", "2 B"]])
    lines = written(narrow.file).splitlines()  # type: ignore[arg-type]
    assert lines == ["Parameters: [before] 1234567890", "KV: [before] 1 B, after 2 B"]
