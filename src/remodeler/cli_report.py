"""The verb ``remodel report``: paths in, paths out, no logic."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that a verb wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="New file for the page.")] = Path("remodel-report.html"),
) -> None:
    """One page from any number of results: figures side by side, trade-offs in one plot, memory, block maps.

    Every folder that a verb wrote has a page of its own already, `report.html`.

    Example: `remodel report blocks layers recovered --out together.html`
    """
    from remodeler.report_together import write_together

    typer.echo(write_together(folders, out))
