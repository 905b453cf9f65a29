"""What a person looks at after a run: scores, predictions and history go in, a page and a text table come out."""
