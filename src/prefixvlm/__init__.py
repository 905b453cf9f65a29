"""prefixvlm: learned visual embeddings as a prefix to a frozen language model."""
