"""Metrics: pure functions from predictions and references to scores, one metric per file."""
