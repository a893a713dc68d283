"""The verb ``remodel recover``."""

from pathlib import Path

from remodeler.cli.result import publish_later, show_result
from remodeler.recovery.config import RecoverConfig


def recover(config: RecoverConfig) -> None:
    """Recover, and show what came of it."""
    with publish_later(config.run):
        from remodeler.recovery.job import recover_model

        if recover_model(config):
            show_result(config.run.out or Path())
