"""What aliases mean now, and whose word for it is taken."""
