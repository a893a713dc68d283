"""Options that every verb with a result has."""

from pathlib import Path
from typing import Annotated

from remodeler.runs.options import Option, config


@config
class RunConfig:
    """Where the result goes."""

    out: Annotated[Path | None, Option(required=True)] = None
    """New folder for the result."""
    push_to_hub: str | None = None
    """Push the result to the Hub (private) as USER/MODEL."""
    dry_run: bool = False
    """Say what would be done, and how long it would take; write nothing."""
