"""Use a trained checkpoint: predictions about images of your own."""
