"""Fine-tuning methods: each makes part of a frozen language model trainable."""
