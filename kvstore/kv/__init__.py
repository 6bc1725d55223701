"""The replicated state machine: commands, sessions, values, as pure code.."""
