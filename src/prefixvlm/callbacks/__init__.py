"""Lightning callbacks, one a file as in conf/callbacks: checkpoints, averages, checks and training statistics."""
