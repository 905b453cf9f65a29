"""Using a trained checkpoint: images go in, captions and answers come out."""
