"""Posts, spans and predictions on disk."""
