"""Converting checkpoints: ClipCap's weights into ours, and LoRA merged into the language model."""
