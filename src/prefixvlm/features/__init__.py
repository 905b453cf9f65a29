"""Feature shards: the outputs of a frozen encoder, computed once and stored for training."""
