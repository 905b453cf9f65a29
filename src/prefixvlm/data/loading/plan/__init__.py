"""Plan of an epoch, as numbers: the order of the samples, and which rank and which worker read them."""
