"""The forward and backward pass of Llama-family models for LoRA training, over packed tokens."""
