"""Whether an adapter is needed: the same rows asked with better and better prompts, then of it."""
