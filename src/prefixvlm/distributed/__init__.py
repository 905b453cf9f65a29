"""Several processes: their ranks, their start, gathering from them, and the signals that stop them."""
