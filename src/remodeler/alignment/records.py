"""Options of an alignment on disk: in the record of a result, and in the identity of an unfinished run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remodeler.checkpoint.config import LoadConfig
from remodeler.runs import processes
from remodeler.runs.folders import partial
from remodeler.runs.options import flat, specs
from remodeler.runs.runlog import RunLog

RUN = "run.jsonl"
"""Holds the identity of an unfinished run."""
LOADING = tuple(spec.name for spec in specs(LoadConfig))
"""Options that change no result beyond rounding."""
FREE = ("out", "batch_size", "save_minutes", *LOADING)
"""Options that may change when a run is resumed."""


def record_options(config: Any) -> dict[str, Any]:
    """Options as a record has them; the model stands among its inputs."""
    left_out = ("model", "dry_run", "push_to_hub")
    return {name: value for name, value in flat(config).items() if name not in left_out}


def identity(config: Any, free: Sequence[str] = ()) -> dict[str, Any]:
    """Identity of a run: all options but those that may change when it is resumed."""
    given = record_options(config)
    return {"model": config.source.name} | {name: value for name, value in given.items() if name not in (*FREE, *free)}


def refuse_other_run(out: Path, header: dict[str, Any]) -> None:
    """Refuse to resume what a run with other options left unfinished, before anything of it is removed.

    Raises:
        InputError: and says what differs.
    """
    processes.first_does(lambda: RunLog(partial(out) / RUN).refuse_other(header))
