"""Control characters are seen, and no stream that breaks costs a result."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from forks import python, said
from remodeler.errors import InputError
from remodeler.evaluation.config import EvaluateConfig
from remodeler.evaluation.job import evaluate_models
from remodeler.evaluation.results import EvaluateResults
from remodeler.reporting import page
from remodeler.runs.options import build
from remodeler.runs.streams import LastingStream, visible

CALL = "; from remodeler.cli.app import main; main()"


def test_control_characters_are_seen_and_do_nothing() -> None:
    assert visible("a\nb\x1b[31mc\u202ed") == r"a\nb\x1b[31mc\u202ed"
    assert visible(os.fsdecode(b"z\xff")) == r"z\udcff"
    assert visible("Straße 東京 👩‍🚀") == "Straße 東京 👩‍🚀"


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
        "import remodeler.evaluation.job as e, signal, os, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what starts these tests may ignore it
        "e.measure = lambda *a, **b: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60))"  # another thread may get it
    )
    process = python(start + CALL, "evaluate", model, "--texts", texts, "--device", "cpu")
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "remodel: stopped (resumable: rerun the same command)"


def test_memory_that_runs_out_is_one_line(model: Path, texts: Path) -> None:
    failing = 'def f(*a, **b): raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried 9 bytes.")\n'
    start = f"{failing}import remodeler.evaluation.job as e; e.measure = f"
    process = python(start + CALL, "evaluate", model, "--texts", texts, "--device", "cpu")
    _, err = process.communicate()
    assert process.returncode == 2
    assert "memory ran out (DefaultCPUAllocator" in err
    assert "Traceback" not in err


def test_an_error_of_the_disk_that_nobody_expected_is_one_line(model: Path, texts: Path) -> None:
    start = "def f(*a, **b): open('/dev/null/nothing')\nimport remodeler.evaluation.job as e; e.measure = f"
    process = python(start + CALL, "evaluate", model, "--texts", texts, "--device", "cpu")
    _, err = process.communicate()
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("remodel: /dev/null/nothing can't be used (Not a directory)")


def test_other_errors_keep_their_traceback(model: Path, texts: Path) -> None:
    start = "def f(*a, **b): raise RuntimeError('a bug')\nimport remodeler.evaluation.job as e; e.measure = f"
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
    given = {"model": str(model), "texts": str(texts), "length": 16, "speed": False, "device": "cpu"}
    config = build(EvaluateConfig, given | {"out": tmp_path / "out"})
    with pytest.raises(InputError, match="no space left"):
        evaluate_models(config, shown.append)
    assert shown[0].checkpoints[0]["perplexity"] > 0
    assert list(tmp_path.iterdir()) == []
