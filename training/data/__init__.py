"""Rows: read, checked, turned into token ids. No torch."""
