"""Rows, texts, prompts and conversations, from files and from the hub."""
