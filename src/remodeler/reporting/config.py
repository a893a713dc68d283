"""Options of reports."""

from pathlib import Path
from typing import Annotated

from remodeler.runs.options import Option, config


@config
class ReportConfig:
    """Compare any number of results on one page: figures side by side, trade-offs in one plot, memory, block maps.

    Every folder that a verb wrote has a page of its own already, `report.html`.

    Example: `remodel report blocks layers recovered --out together.html`
    """

    folders: Annotated[tuple[Path, ...], Option(positional=True, required=True)]
    """Folders that a verb wrote."""
    out: Path = Path("remodel-report.html")
    """New file for the page."""
