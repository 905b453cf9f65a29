"""Language models: embeddings in, hidden states and logits out."""
