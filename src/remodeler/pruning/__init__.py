"""Remove the least important blocks, heads and channels."""

from remodeler.runs.lazy import lazy

_PLACES = {"CRITERIA": "methods", "METHODS": "methods", "WIDTH_METHODS": "width.width", "cut": "api", "prune": "api"}
__getattr__, __dir__ = lazy(__name__, _PLACES)
