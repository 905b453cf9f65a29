"""Comparison of the jobs of a sweep, and its Optuna study."""
