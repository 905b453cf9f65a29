"""A checkpoint as a LlavaForConditionalGeneration of transformers, with its processor."""
