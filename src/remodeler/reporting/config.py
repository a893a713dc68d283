"""Options of reports."""

from pathlib import Path
from typing import Annotated

from remodeler.runs.config import OUTPUT
from remodeler.runs.options import Option, config


@config
class ReportConfig:
    """Compare any number of results on one page: measurements, trade-off curves, memory, maps of removed blocks.

    Each folder that remodel wrote has a page of its own already, `report.html`.

    Example: `remodel report blocks layers recovered --out together.html`
    """

    folders: Annotated[tuple[Path, ...], Option(positional=True, required=True)]
    """Folders that remodel wrote: models, evaluations, audits."""
    out: Annotated[Path, Option(OUTPUT)] = Path("remodel-report.html")
    """New .html file."""
