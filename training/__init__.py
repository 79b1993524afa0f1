"""The top layer: rows of text in, a checked, trained and measured LoRA adapter out."""
