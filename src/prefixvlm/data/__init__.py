"""From shards of images and texts to batches: everything between tar files and the model."""
