"""PrefixLM (encoder, mapper and frozen language model in one), its losses, its heads and decoding."""
