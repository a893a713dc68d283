"""Scores, intervals and counts."""
