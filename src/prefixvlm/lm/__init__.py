"""Language models: from embeddings to hidden states and logits."""
