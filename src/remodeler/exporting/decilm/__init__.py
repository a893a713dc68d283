"""DeciLM's layout, for vLLM, SGLang and mlx-lm."""
