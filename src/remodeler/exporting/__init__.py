"""Write a pruned model for other runtimes, and read it back there."""

from remodeler.runs.lazy import lazy

__getattr__, __dir__ = lazy(__name__, {"TARGETS": "job", "export": "job"})
