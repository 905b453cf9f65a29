"""Answer metrics of visual question answering: the official accuracies and their variants."""
