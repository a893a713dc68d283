"""Parts of command lines that tests and benchmarks give to verbs in the folder of :mod:`prepared`."""

import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

from remodeler.cli import app as cli

TEXTS = "--texts texts.jsonl --samples 8 --length 16 --device cpu"
EVOLVE = (
    "align evolve model --prompts prompts.txt --reviser reviser --max-new-tokens 24 --completions 4 --device cpu "
    "--min-quality 0 --min-confidence 0 --major-confidence 0 --quality-slack 1 --shortest 0 --longest 1000 "
    "--max-repetition 1"
)
"""An evolution in which every answer is accepted."""
SMALL = ["--samples", "8", "--length", "16", "--device", "cpu"]


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["remodel", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Results, then notes."""
        return self.stdout + self.stderr


def invoke(words: Iterable[object]) -> Ended:
    """Run a command in this process, with streams of its own."""
    out, err = io.StringIO(), io.StringIO()
    line = ["remodel", *map(str, words)]
    with patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stop:
            return Ended(int(stop.code or 0), out.getvalue(), err.getvalue())
    return Ended(0, out.getvalue(), err.getvalue())


def verbs() -> list[str]:
    """All verbs, those of groups with the group's name before them."""
    return list(_verbs(cli.app, ()))


def _verbs(app: Any, names: tuple[str, ...]) -> Iterator[str]:
    parts = [name for name in app if name[0].isalpha()]
    for name in parts:
        yield from _verbs(app[name], (*names, name))
    if not parts:
        yield " ".join(names)
