"""GGUF files, read: keys, tensors where they lie, and what they are under transformers' names."""
