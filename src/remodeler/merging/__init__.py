"""Many checkpoints of one shape into one."""
