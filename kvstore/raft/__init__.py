"""Consensus of one group (Raft), as pure code.."""
