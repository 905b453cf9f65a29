"""Features to a prefix: the mappers."""
