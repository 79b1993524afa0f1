"""The registry's HTTP routes, one file a topic."""
