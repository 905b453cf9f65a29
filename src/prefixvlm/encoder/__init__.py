"""Pixels to features: the image encoders."""
