"""Pages, figures and model cards, made from what is on disk."""
