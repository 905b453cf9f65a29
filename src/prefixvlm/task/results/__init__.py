"""What a task makes of the model's outputs: predictions, scores, boxes and per-class scores."""
