"""A live model: its blocks, its layers, its tensors, its predictions."""
