"""Rounds of answering, revising, filtering and training."""
