"""Image encoders: pixel values to features."""
