"""Models with their tokenizers: loaded, saved, checked, published."""
