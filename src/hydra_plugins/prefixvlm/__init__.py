"""A sweep goes in; processes come out: Hydra's launcher and sweeper for jobs that are runs of their own."""
