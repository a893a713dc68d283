"""Which heads and channels go."""
