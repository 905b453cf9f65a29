"""Rows of text for the model: from samples, with demonstrations, and with closed sets of answers."""
