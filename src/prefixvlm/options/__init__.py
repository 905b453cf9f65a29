"""The options of components: the ranges of their values, and what a signature accepts."""
