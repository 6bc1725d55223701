"""One node: drivers that carry out what the pure cores decide."""
