"""The Penn Treebank tokenizer of the official COCO caption scores, without Java."""
