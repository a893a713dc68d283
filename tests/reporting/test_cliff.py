"""Where a path of removals stops being usable: curves whose answer is known, and the command that follows from it."""

import math
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import remodeler
from remodeler.cli import app as cli
from remodeler.pruning import complete
from remodeler.reporting.cliff import (
    Point,
    cliff,
    cut_command,
    guessing_warning,
    is_ruined,
    path_warning,
    result_warning,
    stored_warning,
    usable_steps,
    warning_line,
)
from remodeler.runs.records import Record, load_record, save_record
from remodeler.runs.streams import visible

OPTIONS = {"model": "org/big one", "out": "my out", "dtype": "float32", "device": "auto", "revision": None}


@pytest.mark.parametrize(
    ("curve", "steps"),
    [
        ([10, 11, 12, 13], None),
        ([60, 61, 62, 63.6, 570.8], 3),
        ([60, 61, 62, 63.6, 570.8, 571, 572], 3),
        ([10, 25], 0),
        ([10, 19.9, 30], None),
        ([10, 20], 0),
        ([10, 30, 12], None),  # it climbs back
        ([10, 30, 21], 0),
        ([10, 11, math.inf], 1),
        ([10, 11, math.nan], 1),
        ([10, 15, 22, 33, 48], 1),  # no cliff, little by little: the last below twice the first
        ([10, 15, 22, 33, 39], None),
        ([5, 8, 11, 20, 200], 1),  # what is left before the cliff is ruined itself
        ([10], None),
    ],
)
def test_where_a_curve_should_have_stopped(curve: list[float], steps: int | None) -> None:
    assert usable_steps(curve) == steps


def test_a_geometric_curve_stops_at_its_last_step_below_twice_the_start() -> None:
    for rate in (1.1, 1.3, 1.7, 1.99):
        curve = [7 * rate**step for step in range(30)]
        assert cliff(curve) is None
        assert usable_steps(curve) == math.ceil(math.log(2, rate)) - 1


def test_worse_than_blind_guessing_is_of_no_use() -> None:
    curve = [250.0, 260.0, 299.0, 320.0]
    assert usable_steps(curve) is None
    assert usable_steps(curve, vocabulary=300) == 2
    assert is_ruined([310.0, 320.0], 300) is False, "a model that only guessed before lost nothing"


def test_what_is_left_at_the_stop_is_of_use_itself() -> None:
    drawn = random.Random(0)
    for _ in range(2000):
        curve = [10.0]
        while len(curve) < 12:
            curve.append(curve[-1] * drawn.choice([0.7, 1.0, 1.2, 1.5, 1.9, 2.5, 9.0]))
        steps = usable_steps(curve, vocabulary=1000)
        if steps is not None:
            assert 0 <= steps < len(curve) - 1
            assert usable_steps(curve[: steps + 1], vocabulary=1000) is None


def test_a_path_names_the_step_and_the_command_that_stops_before_it() -> None:
    path = [Point(60.0), Point(63.6, "at step 1 (mlp.3)", 1), Point(570.8, "at step 2 (mlp.4)", 2)]
    found = path_warning(path, 1000, OPTIONS)
    assert found is not None
    assert "from 63.6 to 570.8 (8.97 times) at step 2 (mlp.4); stop after step 1, at 63.6" in found["text"]
    words = ["remodel", "cut", "my out", "org/big one", "--remove", "1", "--dtype", "float32", "--out", "my out-1"]
    assert shlex.split(found["command"]) == words
    assert warning_line(found) == f"{found['text']}: {found['command']}"
    assert path_warning(path[:2], 1000, OPTIONS) is None


def test_without_a_smaller_cut_there_is_no_command() -> None:
    found = path_warning([Point(5.0), Point(50.0, "as heads and channels go")], 1000, OPTIONS)
    assert found is not None
    assert "command" not in found
    assert found["text"].endswith("as heads and channels go; remove less, or choose another method")


def test_swaps_count_as_no_removals() -> None:
    path = [Point(5.0), Point(6.0, "at step 1", 1), Point(5.5, "at step 2", 1), Point(50.0, "at step 3", 2)]
    found = path_warning(path, 1000, OPTIONS)
    assert found is not None
    assert "--remove 1" in found["command"]
    assert "stop after step 2" in found["text"]


def test_what_a_model_needs_to_load_is_in_the_command() -> None:
    more = OPTIONS | {"trust_remote_code": True, "family": "llama", "form": "auto", "revision": "main"}
    command = cut_command(more, 4, "somewhere/")
    assert command.startswith("remodel cut somewhere/ 'org/big one' --remove 4 --revision main --family llama")
    assert command.endswith("--trust-remote-code --out somewhere-4")


@pytest.mark.parametrize("place", ["-run", "new\nline", "a'b\x1b[31m\\", os.fsdecode(b"z\xff\n"), "~", "{0} %s é"])
def test_the_command_runs_as_it_is_shown(place: str) -> None:
    shown = visible(cut_command({"model": place, "out": place}, 3))
    said = subprocess.run(
        ["bash", "-c", f"remodel() {{ printf '%s\\0' \"$@\"; }}; {shown}"], capture_output=True, check=True
    )
    words = os.fsdecode(said.stdout).split("\0")[:-1]
    whole = f"./{place}" if place.startswith("-") else place
    assert words == ["cut", whole, whole, "--remove", "3", "--out", f"{whole}-3"]


def test_a_folder_that_was_moved_is_named_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    results = {"warning": {"text": "bad", "command": cut_command(OPTIONS, 4)}}
    for verb, place in (("prune", str(tmp_path / "moved")), ("export", "'my out'")):
        save_record(tmp_path / "moved", Record(verb, OPTIONS, {}, 0, {}, results))
        found = stored_warning(tmp_path / "moved")
        assert found is not None
        assert found["command"].startswith(f"remodel cut {place} 'org/big one' --remove 4 ")
    assert stored_warning(tmp_path) is None


def test_a_trained_result_is_held_against_the_intact_model() -> None:
    assert result_warning(10.0, 39.0, 1000, "held-out") is None
    found = result_warning(10.0, 40.0, 1000, "held-out", "remodel cut x")
    assert found is not None
    assert found["command"] == "remodel cut x"


def test_a_result_that_only_guesses_says_so_though_the_model_before_did_too() -> None:
    assert result_warning(600.0, 480.0, 500, "held-out") is None
    found = result_warning(600.0, 700.0, 500, "held-out", "remodel cut x")
    assert found is not None
    assert found["text"].endswith("this result on held-out text (700 among 500 tokens)")
    assert "command" not in found


def test_models_that_only_guess_are_named() -> None:
    assert guessing_warning(["a", "b"], [20.0, None], [300, 300]) is None
    found = guessing_warning(["a", "b"], [20.0, 301.0], [300, 300])
    assert found is not None
    assert "b (301 among 300 tokens)" in found["text"]
    assert "a (" not in found["text"]


def test_a_ruined_result_says_so_everywhere_and_its_command_makes_one_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["remodel", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(complete, "compare_affordable_speed", lambda both: [{} for _ in both])  # takes most of the time
    demo = str(Path(remodeler.__file__).parent / "demo_model")
    known = [getattr(kind, name).__doc__ or "" for kind in (str, dict, list) for name in dir(kind)]  # as in training
    Path("texts.txt").write_text("\n\n".join(known))
    words = ["--texts", "texts.txt", "--samples", "4", "--length", "64", "--device", "cpu", "--dtype", "float32"]
    run("prune", demo, "--method", "llm-drop", "--remove", "20", "--out", "ruined [x]", *words)
    given = load_record(Path("ruined [x]")).results["warning"]
    assert given["perplexity_after"] > 2 * given["perplexity_before"]
    assert f"{given['text']}: {given['command']}" in capsys.readouterr().err.splitlines()
    card, page = (Path("ruined [x]", name).read_text("utf-8") for name in ("README.md", "report.html"))
    assert given["command"] in card
    assert "<strong>Warning:</strong> this result is not usable" in page
    run(*shlex.split(given["command"])[1:])
    assert "warning" not in load_record(Path(shlex.split(given["command"])[-1])).results
