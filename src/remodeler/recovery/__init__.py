"""Recover quality after pruning: LoRA, full fine-tuning, distillation."""

from remodeler.runs.lazy import lazy

__getattr__, __dir__ = lazy(__name__, {"METHODS": "methods", "recover": "job"})
