"""The commands of training; each imports torch only when it starts to compute."""
