"""Parts of command lines that tests and benchmarks give to verbs in the folder of :mod:`prepared`."""

import sys

import pytest

from remodeler.cli import app as cli

TEXTS = "--texts texts.jsonl --samples 8 --length 16 --device cpu"
EVOLVE = (
    "align evolve model --prompts prompts.txt --reviser reviser --tokens 24 --samples 4 --device cpu "
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
