"""Training: the Lightning modules, optimisation and checkpoints."""
