"""Find and count toxic spans, in texts and in what models say."""
