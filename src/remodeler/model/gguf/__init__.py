"""GGUF files, written: a dense one less some of its blocks, tensors moved as they lie."""
