"""The verbs ``remodel report`` and ``remodel publish``."""

from remodeler.checkpoint.config import PublishConfig
from remodeler.reporting.config import ReportConfig


def report(config: ReportConfig) -> None:
    """Write the page, and say where it is."""
    from remodeler.cli.results import results_of
    from remodeler.cli.screen import say
    from remodeler.reporting.together import write_together

    say(str(write_together(config.folders, config.out, results_of)))


def publish(config: PublishConfig) -> None:
    """Publish, and say where it is."""
    from remodeler.checkpoint.publish import publish as send
    from remodeler.cli.screen import say

    say(send(config.folder, config.name, config.public, config.dry_run))
