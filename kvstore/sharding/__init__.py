"""Keys to shards, shards to nodes, as pure code.."""
