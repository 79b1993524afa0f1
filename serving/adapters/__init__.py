"""Adapters on their way from the store to the base: cached, packed, leased a slot, exported."""
