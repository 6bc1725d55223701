"""The disk that forgets: compiles ``shim.c``, and plays back what it remembered."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

SOURCE = Path(__file__).with_name("shim.c")
SECTOR_BYTES = 512
_RECORD = struct.Struct("=QQQ")


class NoCompiler(Exception):
    """The shim cannot be made on this machine; the reason is its text."""


def build(directory: Path) -> Path:
    """The shim as a shared object in ``directory``.

    Raises:
        NoCompiler: says what is missing or wrong.
    """
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), "")
    if not compiler:
        raise NoCompiler("no C compiler (cc, gcc or clang) is installed")
    library = directory / "shim.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    done = subprocess.run([*command, "-ldl", "-lpthread"], capture_output=True, check=False)
    if done.returncode:
        raise NoCompiler(f"{compiler} fails: {done.stderr.decode(errors='replace')[:200]}")
    return library


@dataclass(frozen=True)
class Shim:
    """One process's disk. ``journal`` and ``control`` are outside of ``data``."""

    library: Path
    data: Path
    journal: Path
    control: Path

    def environment(self) -> dict[str, str]:
        """What a process needs to run on this disk."""
        self.journal.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        return {
            "LD_PRELOAD": str(self.library),
            "CHAOS_DIR": str(self.data.resolve()),
            "CHAOS_JOURNAL": str(self.journal.resolve()),
            "CHAOS_CONTROL": str(self.control.resolve()),
        }

    def order(self, text: str) -> None:
        """``fail TEXT`` or ``slow MS``; see ``shim.c``."""
        new = self.control.with_name(self.control.name + ".new")
        new.write_text(text + "\n", encoding="ascii")
        new.replace(self.control)

    def countermand(self) -> None:
        """Be a good disk again."""
        self.control.unlink(missing_ok=True)

    def lose_power(self, rng: random.Random) -> int:
        """Take back some, or all, of what no sync covered; the process must be dead.

        Returns:
            How many bytes were taken back.
        """
        paths = {path.stat().st_ino: path for path in self.data.rglob("*") if path.is_file()}
        lost = 0
        for file in sorted(self.journal.iterdir()):
            path = paths.get(int(file.name))
            if path is not None:
                lost += _undo(path, file.read_bytes(), rng)
            file.unlink()
        return lost


def _undo(path: Path, records: bytes, rng: random.Random) -> int:
    """Undo writes, the last one first, in sectors; sizes all together or not at all."""
    writes: list[tuple[int, bytes, int]] = []
    at = 0
    while at + _RECORD.size <= len(records):
        offset, length, size = _RECORD.unpack_from(records, at)
        at += _RECORD.size
        writes.append((offset, records[at : at + length], size))
        at += length
    share = rng.choice((0.5, 1.0))
    lost = 0
    with path.open("r+b") as file:
        for offset, before, _ in reversed(writes):
            lost += _undo_write(file.fileno(), offset, before, share, rng)
        if writes:
            size = writes[0][2]
            lost += max(0, path.stat().st_size - size)
            os.ftruncate(file.fileno(), size)
    return lost


def _undo_write(fd: int, offset: int, before: bytes, share: float, rng: random.Random) -> int:
    lost, start, end = 0, offset, offset + len(before)
    while start < end:
        stop = min(start - start % SECTOR_BYTES + SECTOR_BYTES, end)
        if rng.random() < share:
            os.pwrite(fd, before[start - offset : stop - offset], start)
            lost += stop - start
        start = stop
    return lost
