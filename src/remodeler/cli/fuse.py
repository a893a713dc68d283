"""The verb ``remodel fuse``."""

from remodeler.cli.evaluate import show_table
from remodeler.cli.result import publish_later
from remodeler.cli.screen import note
from remodeler.fusion.config import FuseConfig


def fuse(config: FuseConfig) -> None:
    """Fuse, and show what came of it."""
    with publish_later(config.run):
        from remodeler.fusion.job import fuse_models

        results = fuse_models(config)
        if results is not None:
            show_table(results)
            note(f"{config.run.out}: the model, report.html, training.jsonl, record.json")
