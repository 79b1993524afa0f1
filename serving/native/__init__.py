"""The C kernels of a whole forward pass: sources, layout, packing, and the loaded library.

What a step computes, in what order, is described by `models/llama.py`, its twin in PyTorch.
"""
