"""The same loads on other stores, in turn with ours: ``make bench-peers``."""
