"""Export of a trained checkpoint to other libraries and formats."""
