"""Tasks: prompts and targets from samples, predictions from the model's outputs, and their scores."""
