"""The verb ``remodel merge``."""

from remodeler.cli.result import publish_later
from remodeler.cli.screen import note, say
from remodeler.merging.config import MergeConfig


def merge(config: MergeConfig) -> None:
    """Merge, and say how much each model counts and where the result is."""
    with publish_later(config.run):
        from remodeler.merging.job import merge_models
        from remodeler.reporting.figures import size

        results = merge_models(config)
        if results is None:
            return
        if results.shares:
            say(f"shares of the models: {', '.join(f'{each:.3f}' for each in results.shares)}")
        weights = size(results.merged["weight_bytes"])
        note(f"{config.run.out}: the model ({weights} of weights), report.html, merge.jsonl, record.json")
