"""What was claimed in the store, in order: versions, aliases, states, events, moves."""
