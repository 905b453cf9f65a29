"""Lightning callbacks: checkpoints, weight averaging, checks of a run and training statistics, one callback a file."""
