"""The bottom layer: what an adapter is, where its bytes and versions live, who points to which.

Imports neither torch nor the layers above it (`serving`, `training`).
"""
