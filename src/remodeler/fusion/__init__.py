"""Distil several teachers, with any tokenizers, into one student."""

from remodeler.runs.lazy import lazy

__getattr__, __dir__ = lazy(__name__, {"fuse": "job"})
