"""TCP connections, servers and the pool of peers."""
