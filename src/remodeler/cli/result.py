"""What verbs end with: the table of measurements, where things are, and the way to the hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from remodeler.cli.evaluate import show_table
from remodeler.cli.results import results_of
from remodeler.cli.screen import note, say
from remodeler.runs.config import RunConfig


@contextmanager
def publish_later(config: RunConfig) -> Iterator[None]:
    """Ask the hub before a run, and push its result after it."""
    from remodeler.checkpoint.publish import publish, refuse_unpublishable
    from remodeler.runs import processes

    name = None if config.dry_run else config.push_to_hub
    if name is not None:
        refuse_unpublishable(name)
    yield
    if name is not None and config.out is not None and processes.is_started_first():
        say(publish(config.out, name))


def show_result(
    out: Path, files: tuple[str, ...] = ("report.html", "removals.jsonl", "record.json"), model: Path | None = None
) -> None:
    """Show the table of a finished folder that holds a model, or of a file ``model`` beside it, and name its files."""
    from remodeler.runs.records import load_record

    record = load_record(out)
    show_table(results_of(record))
    there = [name for name in files if (out / name).exists()]
    if model is not None and model != out:
        note(f"{model}: the model; {out}: {', '.join(there)}")
        return
    note(f"{out}: the model ({record.results['form']} form), {', '.join(there)}")
