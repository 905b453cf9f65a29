"""Inference with a trained checkpoint on image files."""
