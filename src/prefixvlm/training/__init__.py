"""Training: Lightning's steps, optimisation, checkpoints and logging."""
