"""What every run has: its folder, record, log, processes and messages."""
