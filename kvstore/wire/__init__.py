"""Bytes to messages and back, as pure code."""
