"""A request from its body to its answer: resolved, rendered, generated, recorded."""
