"""A run and what it keeps: its directory, record, checkpoint, curve and adapter; grids of runs."""
