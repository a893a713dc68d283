"""Remove the blocks that matter least."""
