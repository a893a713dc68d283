"""Perplexity, tasks and speed of checkpoints."""
