"""A command that is killed at any moment and given again ends in the same bytes; benchmarks/kills.py does it often."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "kills.py"
QUICK = ("merge", "recover")


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
