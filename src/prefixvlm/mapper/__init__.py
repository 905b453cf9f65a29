"""Mappers: image features to the prefix embeddings of the language model."""
