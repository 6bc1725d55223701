"""What is kept on disk: the write-ahead log and the engine."""
