"""What one sample of a shard may hold: members of a tar go in, a checked Sample comes out."""
