"""Preferences, prompts and the texts a reviser reads."""
