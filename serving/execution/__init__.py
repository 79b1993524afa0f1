"""One step: rows packed for the model, tokens sampled, probes replayed."""
