"""Continue texts, in batches."""
