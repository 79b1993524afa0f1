"""Protected aliases: which conditions a move must meet, and what a move would do."""
