"""Data loaders over shards: shuffled and exactly resumable for training, each sample once for evaluation."""
