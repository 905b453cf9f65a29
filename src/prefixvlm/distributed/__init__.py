"""Several processes: starting them, gathering from them, and the signals that stop them."""
