"""Real bugs of backward passes, each small enough to be repaired."""
