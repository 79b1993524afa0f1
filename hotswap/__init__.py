"""Adapters on one base model, versioned and served: `registry`, `serving`, `training`."""
