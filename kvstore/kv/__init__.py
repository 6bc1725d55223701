"""The replicated state machine: commands, sessions and values, as pure code."""
