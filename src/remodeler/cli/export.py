"""The verb ``remodel export``."""

from remodeler.exporting.config import ExportConfig


def export(config: ExportConfig) -> None:
    """Export, and say where it is."""
    from remodeler.cli.screen import say
    from remodeler.exporting.job import export_model

    if export_model(config) is not None:
        say(f"{config.out}: {config.to if config.gguf is None else 'gguf'}")
