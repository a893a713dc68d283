"""Which blocks go: step by step, by perplexity or another criterion."""
