"""Small files that are either their old selves or their new ones, whatever happens.

POSIX promises that ``rename`` is atomic, not that it is durable, nor that the content is
there before the name: hence the order here, and the fsync of the directory (Pillai et al.
2014, "All File Systems Are Not Created Equal").
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DRAFT_SUFFIX = ".tmp"


class Disk:
    """The few operations of which durable files are made; tests put a failing one in.

    All block and raise OSError.
    """

    def append(self, path: Path, data: bytes) -> None:
        """Write ``data`` at the end of ``path``, made if it is not there. Not durable yet."""
        with path.open("ab", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]

    def sync(self, path: Path) -> None:
        """What ``path`` holds is on the medium when this returns."""
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Let ``new`` be what ``old`` was, at once."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove ``path`` if it is there."""
        path.unlink(missing_ok=True)


def replace_durably(path: Path, data: bytes, disk: Disk) -> None:
    """Make ``data`` the content of ``path``; after a crash it is the old one or the new one."""
    draft = path.with_name(path.name + DRAFT_SUFFIX)
    disk.remove(draft)
    disk.append(draft, data)
    disk.sync(draft)
    disk.rename(draft, path)
    disk.sync(path.parent)
