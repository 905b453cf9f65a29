"""Results of tasks: predictions, scores, boxes and per-class scores."""
