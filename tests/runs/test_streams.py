"""What is shown is its letters, on any terminal; and no stream that breaks costs a result."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import pytest

from forks import python, said
from remodeler.errors import InputError
from remodeler.evaluation.job import evaluate_models
from remodeler.evaluation.results import EvaluateResults
from remodeler.report import page
from remodeler.runs import console
from remodeler.runs.streams import LastingStream, spelled, visible

MARKUP = "run [/b] [v2] :warning: [red]x"
CALL = "; from remodeler.cli.app import main; main()"


def terminal(encoding: str) -> TextIO:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")


def written(stream: TextIO) -> str:
    stream.flush()
    assert isinstance(stream, io.TextIOWrapper)
    return stream.buffer.getvalue().decode(stream.encoding)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("place", ["title", "column", "cell", "line", "note"])
def test_nothing_in_a_name_is_markup(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    if place == "line":
        console.say(MARKUP)
    elif place == "note":
        console.note(MARKUP)
    else:
        given = {name: MARKUP if name == place else "1" for name in ("title", "column", "cell")}
        console.table(given["title"], ["", given["column"]], [["rows", given["cell"]]])
    assert MARKUP in "".join(capsys.readouterr())


def test_a_bar_shows_names_letter_by_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = console.Screen(file=terminal("utf-8"), force_terminal=True, width=200)
    monkeypatch.setattr(console, "ERR", screen)
    with console.bar(MARKUP) as hear:
        hear(0.5, "[/dim] of it")
    text = written(screen.file)  # type: ignore[arg-type]
    assert MARKUP in text
    assert "[/dim] of it" in text


def test_control_characters_are_seen_and_do_nothing() -> None:
    assert visible("a\nb\x1b[31mc\u202ed") == r"a\nb\x1b[31mc\u202ed"
    assert visible(os.fsdecode(b"z\xff")) == r"z\udcff"
    assert visible("Straße 東京 👩‍🚀") == "Straße 東京 👩‍🚀"


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"-5 \xe9 \u6771"), ("cp1252", r"-5 é \u6771")])
def test_a_terminal_gets_only_characters_that_it_has(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spelled("\N{MINUS SIGN}5 é 東", encoding) == shown
    stream = terminal(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    console.table("", ["", "\N{MINUS SIGN}5 é 東"], [["rows", "1"]])
    text = written(stream)
    assert shown in text
    assert len({len(line) for line in text.splitlines()}) == 1, "rows are equally long"


def test_a_narrow_file_has_whole_numbers_and_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    console.table("", ["", "n" * 300], [["Parameters", "1,234,567,890"]])
    assert {"n" * 300, "1,234,567,890"} <= set(capsys.readouterr().out.split())


def test_a_narrow_terminal_gets_a_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = console.Screen(file=terminal("utf-8"), force_terminal=True, color_system=None, width=20)
    monkeypatch.setattr(console, "OUT", screen)
    console.table("", ["", "[before]", "after"], [["Parameters", "1234567890", ""], ["KV", "1 B", "2 B"]])
    lines = written(screen.file).splitlines()  # type: ignore[arg-type]
    assert lines == ["Parameters: [before] 1234567890", "KV: [before] 1 B, after 2 B"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_stream_is_told_and_fails_nobody() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        stream = LastingStream(full)
        for _ in range(3):
            stream.write("words" * 10_000)
            stream.flush()
        assert stream.lost == "No space left on device"


def test_a_reader_who_leaves_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as pipe:
        stream = LastingStream(pipe)
        stream.write("words")
        stream.flush()
        assert isinstance(stream.error, BrokenPipeError)
        assert stream.lost is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_streams_that_can_not_be_written_cost_no_result(model: Path, texts: Path, tmp_path: Path) -> None:
    """Five processes at once: each ends with its whole folder, and says where words of a result were lost."""
    words = ["--texts", texts, "--length", 16, "--no-speed", "--device", "cpu"]
    starts = {
        "full": "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
        "both": "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); os.dup2(1, 2)",
        "broken": "import os; a, b = os.pipe(); os.close(a); os.dup2(b, 1); os.dup2(b, 2)",
        "closed": "import os, sys; os.close(1); os.close(2); sys.stdout = sys.stderr = None",
        "ascii": "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict'); "
        "sys.stderr.reconfigure(encoding='ascii', errors='strict')",
    }
    begun = {
        name: python(start + CALL, "evaluate", model, "--out", tmp_path / f"{name} [é]", *words)
        for name, start in starts.items()
    }
    ended = {name: (process.communicate(), process.returncode) for name, process in begun.items()}
    assert {name: code for name, (_, code) in ended.items()} == {
        **dict.fromkeys(starts, 0),
        "full": 2,
        "both": 2,
    }
    assert "stdout can't be written (No space left on device)" in ended["full"][0][1]
    assert all((tmp_path / f"{name} [é]" / "record.json").exists() for name in starts)
    assert "Traceback" not in str(ended)
    assert "Perplexity" in ended["ascii"][0][0]


def test_an_interrupt_is_one_line(model: Path, texts: Path) -> None:
    start = (
        "import remodeler.evaluation.job as e, signal, os\n"
        "e.evaluate = lambda *a, **b: os.kill(os.getpid(), signal.SIGINT)"
    )
    process = python(start + CALL, "evaluate", model, "--texts", texts, "--device", "cpu")
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "remodel: stopped (the same command goes on from here)"


def test_memory_that_runs_out_is_one_line(model: Path, texts: Path) -> None:
    failing = 'def f(*a, **b): raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried 9 bytes.")\n'
    start = f"{failing}import remodeler.evaluation.job as e; e.evaluate = f"
    process = python(start + CALL, "evaluate", model, "--texts", texts, "--device", "cpu")
    _, err = process.communicate()
    assert process.returncode == 2
    assert "memory ran out (DefaultCPUAllocator" in err
    assert "Traceback" not in err


def test_an_error_of_the_disk_that_nobody_expected_is_one_line(model: Path, texts: Path) -> None:
    start = "def f(*a, **b): open('/dev/null/nothing')\nimport remodeler.evaluation.job as e; e.evaluate = f"
    process = python(start + CALL, "evaluate", model, "--texts", texts, "--device", "cpu")
    _, err = process.communicate()
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("remodel: /dev/null/nothing can't be used (Not a directory)")


def test_other_errors_keep_their_traceback(model: Path, texts: Path) -> None:
    start = "def f(*a, **b): raise RuntimeError('a bug')\nimport remodeler.evaluation.job as e; e.evaluate = f"
    _, err = (process := python(start + CALL, "evaluate", model, "--texts", texts, "--device", "cpu")).communicate()
    assert process.returncode == 1
    assert "Traceback" in err


def test_words_of_processes_are_as_before(model: Path, texts: Path) -> None:
    out, _ = said(
        python(CALL[2:], "evaluate", model, "--texts", texts, "--length", 16, "--no-speed", "--device", "cpu")
    )
    assert "Perplexity" in out


def test_figures_are_shown_before_a_disk_can_refuse_them(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[EvaluateResults] = []

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(page, "write_report", full)
    options = {"texts": str(texts), "length": 16, "packing": "paper", "limit": None, "speed": False}
    loading = {"family": None, "trust_remote_code": False, "dtype": "auto", "device": "cpu"}
    with pytest.raises(InputError, match="no space left"):
        evaluate_models([str(model)], [None], loading, options, [], tmp_path / "out", shown.append)
    assert shown[0].checkpoints[0]["perplexity"] > 0
    assert list(tmp_path.iterdir()) == []
