"""Writing the features of a frozen encoder to shards, so that training need not compute them."""
