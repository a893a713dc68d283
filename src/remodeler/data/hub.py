"""Data sets of the Hugging Face hub as rows: ``hf:NAME[:CONFIG][:SPLIT]``, and those that have a name here."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from remodeler.errors import InputError

PREFIX = "hf:"
NAMED = ("alpaca", "c4")
"""Data sets of the hub that go by a name of their own."""

Row = dict[str, Any]


def on_hub(source: str) -> bool:
    """Whether a source is a data set of the hub."""
    return source in NAMED or source.startswith(PREFIX)


def hub_rows(source: str, first: int) -> list[Row]:
    """The rows of a data set: of Alpaca all, of others the first, streamed.

    Raises:
        InputError: when it can't be read.
    """
    if source == "alpaca":
        return load("tatsu-lab/alpaca", split="train")
    if source == "c4":
        shard = {"validation": "en/c4-validation.00000-of-00008.json.gz"}
        return load("allenai/c4", split="validation", first=first, data_files=shard)
    name, config, split = _parts(source)
    return load(name, config, split=split, first=first)


def _parts(source: str) -> tuple[str, str | None, str]:
    """The parts of ``hf:NAME[:CONFIG][:SPLIT]``; a lone train, validation or test is a split."""
    name, *rest = source.removeprefix(PREFIX).split(":")
    if not name or len(rest) > 2:
        raise InputError(f"{source} was given, hf:NAME[:CONFIG][:SPLIT] was expected: write it like that")
    if len(rest) == 1 and rest[0] in ("train", "validation", "test"):
        return name, None, rest[0]
    config, split = [*rest, "", ""][:2]
    return name, config or None, split or "train"


def load(name: str, config: str | None = None, *, split: str, first: int | None = None, **options: Any) -> list[Row]:
    """Rows of a hub data set: all, downloaded and kept in the cache, or streamed up to ``first``."""
    import datasets

    try:
        with _quiet():
            found = datasets.load_dataset(name, config, split=split, streaming=first is not None, **options)
            return list(islice(found, first))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        advice = "check the name, the split and the network, or give a local file"
        raise InputError(f"the data set {name} can't be read from the hub ({_line(error)}): {advice}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no retry warnings of the hub libraries; their settings come back."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    shown, level = not datasets.are_progress_bars_disabled(), hub_logging.get_verbosity()
    datasets.disable_progress_bars()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
