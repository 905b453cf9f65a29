"""Models that installed Python packages carry, for runs without a network."""
