"""Whether there is room on the disk for what is to be measured."""

from __future__ import annotations

import shutil
import tempfile
from typing import Final

from kvstore.cli.movement import size
from kvstore.errors import DiskFull

NODE_BYTES: Final = 600 << 20
"""The log up to its bound, what is made in advance, and what must stay free."""
ROW_BYTES: Final = 80
"""A key, and what is kept with each value."""
SLACK: Final = 1.5
"""What the engine writes anew is there twice for a while."""


def needed_bytes(nodes: int, keys: int, value_bytes: int, *, log_bytes: int = 0) -> int:
    """By all nodes together, if each holds everything."""
    return nodes * (NODE_BYTES + log_bytes + int(SLACK * keys * (ROW_BYTES + value_bytes)))


def check_room(wanted_bytes: int, directory: str | None = None) -> str:
    """A sentence about the room where temporary files are made.

    Raises:
        DiskFull: it is not enough.
    """
    where = directory or tempfile.gettempdir()
    free_bytes = shutil.disk_usage(where).free
    said = f"up to {size(wanted_bytes)} in {where}, of {size(free_bytes)} that are free"
    if free_bytes < wanted_bytes:
        raise DiskFull(f"this takes {said}: name a larger disk by TMPDIR")
    return f"this takes {said}"
