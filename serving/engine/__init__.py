"""Which rows run in the next step. Policy without tensors."""
