"""Measures how fast the store is, and what that costs: ``make bench`` and ``make bench-peers``."""
