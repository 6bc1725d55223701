"""Which shard a key belongs to, and which nodes hold it (DESIGN section 5).

Read it in this order:

``ring``      positions of keys, arcs of shards, tokens of nodes;
``placement`` which nodes hold which shard, by a pure function of the nodes;
``shard_map`` the decision, with a version, as nodes and clients exchange it.
"""
