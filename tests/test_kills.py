"""A command that is killed at any moment and given again ends in the same bytes; benchmarks/kills.py does it often."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import EVOLVE, TEXTS, invoke
from prepared import prepare
from remodeler.runs import job as runs_job
from remodeler.runs.folders import remove_scratch
from remodeler.runs.records import load_record

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "kills.py"
QUICK = ("merge", "recover")
LEARNED = "--preferences pairs.jsonl --device cpu --epochs 1"
TIDIED = {
    "remodeler.recovery.job": f"recover pruned --teacher model --method distill --steps 2 {TEXTS}",
    "remodeler.merging.job": "merge model sister --base mother --method ties --density 0.5",
    "remodeler.fusion.job": f"fuse model --teachers sister --steps 2 {TEXTS}",
    "remodeler.alignment.reviser.train": f"align train-reviser model --template template.json {LEARNED}",
    "remodeler.alignment.baselines.job": f"align baseline model {LEARNED}",
    "remodeler.alignment.evolution.job": EVOLVE,
    "remodeler.auditing.tagger.train_job": "audit train --texts posts.csv --encoder encoder --epochs 1 --device cpu",
}
"""Verbs that keep folders of work in what they make until it is done, by their modules."""


@pytest.mark.slow
def test_what_was_killed_and_resumed_is_what_was_never_killed(tmp_path: Path) -> None:
    """The script says so by its exit code; the moments are drawn from the time that a whole run takes here."""
    told = tmp_path / "kills.json"
    words = [sys.executable, str(SCRIPT), "--kills", "2", "--out", str(told), "--verbs", *QUICK]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = json.loads(told.read_text())
    assert list(rows) == list(QUICK)
    assert all(row["before"] + row["inside"] + row["after"] == 2 for row in rows.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with models and texts."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(lambda *words: invoke(words).exit_code)
        yield folder


def died(folder: Path, *names: str) -> None:
    """Tidying that is killed half-way."""
    remove_scratch(folder, *names[:1])
    raise SystemExit(77)


@pytest.mark.parametrize("module", TIDIED)
def test_what_is_killed_while_it_tidies_is_not_made_again(
    module: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All was written by then; the same command only takes out the rest, and gives the folder its name."""
    monkeypatch.chdir(place)
    out = place / module.replace(".", "-")
    words = shlex.split(f"{TIDIED[module]} --out {out.name}")
    with monkeypatch.context() as patch:
        patch.setattr(runs_job, "remove_scratch", died)
        assert invoke(words).exit_code == 77
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(runs_job, "_work", again)
        made = invoke(words)
    assert made.exit_code == 0, made.output
    assert (out / "record.json").exists()
    assert (out / "report.html").exists()
    assert not [path for path in place.glob(f"{out.name}.*")]
    assert not [path for path in out.rglob("*") if path.is_dir() or path.suffix == ".partial"]


def again(*_: Any, **__: Any) -> Any:
    raise AssertionError("it was done already")


def test_what_another_run_left_is_not_taken_for_ones_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    command, out = TIDIED["remodeler.recovery.job"], place / "other"
    with monkeypatch.context() as patch:
        patch.setattr(runs_job, "remove_scratch", lambda folder, *_: died(folder))
        assert invoke(shlex.split(f"{command} --out other")).exit_code == 77
    assert list((place / "other.partial" / "training").glob("step-*"))
    made = invoke(shlex.split(f"{command.replace('--steps 2', '--steps 3')} --out other"))
    assert made.exit_code == 0, made.output
    assert load_record(out).results["steps"] == 3
