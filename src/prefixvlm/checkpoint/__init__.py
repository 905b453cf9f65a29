"""Checkpoint files: what they hold, and reading those of strangers."""
