"""The verbs ``remodel prune`` and ``remodel cut``."""

from pathlib import Path

from remodeler.cli.result import publish_later, show_result
from remodeler.pruning.config import CutConfig, PruneConfig, result_folder


def prune(config: PruneConfig) -> None:
    """Prune, and show what came of it."""
    with publish_later(config.run):
        from remodeler.pruning.job import prune_model

        if prune_model(config):
            out = config.run.out or Path()
            show_result(result_folder(out), model=out)


def cut(config: CutConfig) -> None:
    """Cut, and show what came of it."""
    with publish_later(config.run):
        from remodeler.pruning.job import cut_model

        if cut_model(config):
            out = config.run.out or Path()
            show_result(result_folder(out), model=out)
