"""Scores: predictions and references go in, numbers come out; one metric a file, pure functions on plain lists."""
