"""What is wrong with a folder of shards: `prefixvlm shards verify`."""
