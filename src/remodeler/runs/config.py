"""Options that every verb with a result has."""

from pathlib import Path
from typing import Annotated

from remodeler.errors import InputError, option
from remodeler.runs.options import Option, config

OUTPUT = "Output"


@config
class FolderConfig:
    """Where the result goes, and whether it is made at all."""

    out: Annotated[Path | None, Option(OUTPUT, required=True)] = None
    """New folder for the result."""
    dry_run: Annotated[bool, Option(OUTPUT)] = False
    """Check everything, print the plan and the expected time, and write nothing."""

    def folder(self) -> Path:
        """The folder for the result.

        Raises:
            InputError: where none was given.
        """
        if self.out is None:
            raise InputError(f"{option('out')} must be given: a new folder for the result")
        return self.out


@config
class RunConfig(FolderConfig):
    """The same of a model, which may go to the Hub."""

    push_to_hub: Annotated[str | None, Option(OUTPUT, command_only=True)] = None
    """Push the result to the Hugging Face Hub as USER/MODEL; a new repository is private."""
