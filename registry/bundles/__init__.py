"""An adapter as files: where it comes from, what is checked, how it travels."""
