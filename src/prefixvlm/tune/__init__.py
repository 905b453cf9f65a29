"""Ways of tuning: a frozen language model in, the same one with something trained out."""
