"""The `kv` command.."""
