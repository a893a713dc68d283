"""Merge checkpoints of the same architecture, in memory that does not grow with them."""

from remodeler.runs.lazy import lazy

__getattr__, __dir__ = lazy(__name__, {"METHODS": "table", "merge": "job"})
