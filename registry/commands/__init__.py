"""The registry's commands, one file a topic."""
