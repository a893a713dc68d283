"""Who prefers which answer; policies side by side."""
