"""What keeps a store healthy: verification, states of versions, garbage."""
