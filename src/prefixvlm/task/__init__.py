"""Tasks: what a sample asks of the model, how it answers, and how the answers are scored."""
