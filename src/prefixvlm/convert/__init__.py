"""Conversion of checkpoints: ClipCap's weights, and tuned weights merged into the language model."""
