"""Checks of checkpoints that strangers wrote."""
