"""Weights shared out among processes: what one process learns, from half of the numbers in each."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from forks import pair, said
from remodeler.errors import InputError
from remodeler.runs.records import read_lines
from remodeler.training.sharding import refuse_sharding, shares, wants_shards
from remodeler.training.state import CURVE_FILE, WEIGHTS, latest, step_of
from sharded import KINDS, UNEVEN, run

SCRIPT = "import sys\nfrom sharded import main\nmain(*sys.argv[1:])"


def by_two(kind: str, folder: Path) -> list[dict[str, Any]]:
    """What each of two processes says of its run."""
    return [json.loads(said(process)[0].splitlines()[-1]) for process in pair(SCRIPT, kind, folder)]


def curve(folder: Path) -> list[dict[str, float]]:
    lines = read_lines(folder / CURVE_FILE)[1:]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def trained(folder: Path) -> dict[str, Tensor]:
    state = latest(folder)
    assert state is not None
    return load_file(state / WEIGHTS)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_learns_and_each_holds_half(kind: str, tmp_path: Path) -> None:
    """One mini-batch of three falls to one process alone, while the other runs one for nothing."""
    told = by_two(kind, tmp_path / "two")
    alone = run(kind, tmp_path / "one", sharded=False)
    bound = 1e-2 if kind == "lora" else 2e-5  # its other weights are bfloat16
    for one, two in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=bound)
    one, two = trained(tmp_path / "one"), trained(tmp_path / "two")  # type: ignore[assignment]
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in two.items()}
    every = sum(each["held"] for each in told)
    assert every == alone["held"], "together they hold the model once"
    assert sum(each["moments"] for each in told) == alone["moments"]
    for each in told:
        assert each["total"] == alone["total"]
        assert each["whole"] == 0, "nothing holds on to a parameter that was shared out"
        assert each["held"] == pytest.approx(every / 2, rel=0.05)
        assert each["moments"] == pytest.approx(alone["moments"] / 2, rel=0.05)


def test_killed_processes_go_on_to_the_same_bits(tmp_path: Path) -> None:
    slow = pair(SCRIPT, "full", tmp_path / "killed", 0.5)
    deadline = time.monotonic() + 120
    while not latest(tmp_path / "killed") and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in slow:
        process.send_signal(signal.SIGKILL)
    for process in slow:
        process.wait()
    done = latest(tmp_path / "killed")
    assert done is not None
    assert step_of(done) < UNEVEN.steps
    for folder in ("killed", "whole"):
        by_two("full", tmp_path / folder)
    one, two = trained(tmp_path / "killed"), trained(tmp_path / "whole")
    assert all(one[name].equal(two[name]) for name in two)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")


def test_any_number_of_processes_goes_on_from_a_state(tmp_path: Path) -> None:
    """A state is whole tensors by name: written by two that share the weights, read by one that holds all."""
    script = "import sys\nfrom sharded import main\nmain(*sys.argv[1:], steps=4, schedule='constant')"
    for process in pair(script, "full", tmp_path / "both"):
        said(process)
    run("full", tmp_path / "both", sharded=False, schedule="constant")
    run("full", tmp_path / "one", sharded=False, schedule="constant")
    for one, two in zip(curve(tmp_path / "one"), curve(tmp_path / "both"), strict=True):
        assert {k: v for k, v in one.items() if k != "heldout"} == pytest.approx(
            {k: v for k, v in two.items() if k != "heldout"}, rel=2e-5
        )


def test_mini_batches_are_shared_out_and_none_counts_twice() -> None:
    assert list(shares(3, alike=True)) == [(0, True), (1, True), (2, True)]


@pytest.mark.parametrize("rank", [0, 1])
def test_who_has_fewer_mini_batches_runs_one_for_nothing(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remodeler.runs.processes.rank", lambda: rank)
    monkeypatch.setattr("remodeler.runs.processes.world", lambda: 2)
    assert list(shares(3, alike=True)) == [[(0, True), (2, True)], [(1, True), (2, False)]][rank]
    assert list(shares(1, alike=True)) == [[(0, True)], [(0, False)]][rank]
    assert list(shares(3, alike=False)) == [[(0, True), (2, True)], [(1, True)]][rank]


def test_what_can_not_be_sharded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is one: start by torchrun"):
        refuse_sharding("no")
    monkeypatch.setattr("remodeler.runs.processes.world", lambda: 2)
    with pytest.raises(InputError, match="`precision='fp16'` was given with `fsdp`: choose bf16 or no"):
        refuse_sharding("fp16")
    refuse_sharding("bf16")


def test_accelerate_launch_may_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wants_shards(False)
    assert wants_shards(True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert wants_shards(False)
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(InputError, match="set its fsdp_version to 2"):
        wants_shards(False)
