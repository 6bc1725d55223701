"""What became of a command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Result:
    code: int
    out: bytes
    err: str

    @property
    def error_line(self) -> str:
        """What stderr says, which must be exactly one line of kv's own."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("kv: ")
        return lines[0]
