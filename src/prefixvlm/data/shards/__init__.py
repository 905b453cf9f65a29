"""Webdataset shards on disk: reading, writing, verifying and showing tars and their manifest."""
