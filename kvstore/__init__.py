"""A sharded, replicated, ordered key-value store."""
