"""A model improves on its own answers, guided by a reviser."""
