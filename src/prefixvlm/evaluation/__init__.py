"""Evaluating a checkpoint: its configuration, demonstrations, extra scorers, trials and the results."""
