"""The loop of training, step by step: from tokenised rows and a base to trained weights."""
