"""Which shard a key belongs to, and which nodes hold it (DESIGN section 5)."""
