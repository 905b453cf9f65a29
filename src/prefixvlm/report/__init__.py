"""Results of an evaluation: metrics.json, predictions.jsonl, the HTML report and the text table."""
