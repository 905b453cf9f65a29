"""The model: encoder, mapper and frozen language model in one, and how text comes out of it."""
