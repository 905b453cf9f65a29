"""Shards on disk: reading, writing, verifying and showing webdataset tars and their manifest."""
