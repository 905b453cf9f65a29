"""A manifest for shards that have none, in a folder or at URLs: `prefixvlm shards index`."""
