"""Options of training that align's commands still take from here."""

from typing import Annotated

import typer

HOW = "How fast"

Adapters = Annotated[bool, typer.Option("--adapters", help="Train LoRA adapters, not everything.", rich_help_panel=HOW)]
Rank = Annotated[int, typer.Option(help="Of the adapters.", rich_help_panel=HOW)]
Alpha = Annotated[float, typer.Option(help="The adapters count alpha / rank times.", rich_help_panel=HOW)]
ScheduleName = Annotated[str, typer.Option("--schedule", help="cosine, linear or constant.", rich_help_panel=HOW)]
Warmup = Annotated[float, typer.Option(help="Share of the steps in which the rate grows.", rich_help_panel=HOW)]
