"""The verbs ``remodel report`` and ``remodel publish``: paths in, paths out, no logic."""

from pathlib import Path
from typing import Annotated

import typer

from remodeler.cli import options as opt


def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that a verb wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="New file for the page.")] = Path("remodel-report.html"),
) -> None:
    """One page from any number of results: figures side by side, trade-offs in one plot, memory, block maps.

    Every folder that a verb wrote has a page of its own already, `report.html`.

    Example: `remodel report blocks layers recovered --out together.html`
    """
    from remodeler.cli.results import results_of
    from remodeler.cli.screen import say
    from remodeler.report.together import write_together

    say(str(write_together(folders, out, results_of)))


def publish(
    folder: Annotated[Path, typer.Argument(help="A folder that a verb wrote.", show_default=False)],
    name: Annotated[str, typer.Argument(help="USER/MODEL on the hub.", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="If it is new, everybody may see it.")] = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Put a finished result on the Hugging Face hub: private, unless you say otherwise.

    Verbs that write a model do the same with `--push-to-hub USER/MODEL`.

    Example: `remodel publish small me/small --dry-run`
    """
    from remodeler.checkpoint.publish import publish as send
    from remodeler.cli.screen import say

    say(send(folder, name, public, dry_run))
