"""Merge checkpoints of the same architecture, in memory that does not grow with them."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import the table of methods, ``METHODS``, when it is asked for: it needs torch."""
    if name == "METHODS":
        from remodeler.merging.table import METHODS

        return METHODS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
