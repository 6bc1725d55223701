"""The disk that forgets: compiles ``shim.c``, and plays back what it remembered."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SOURCE = Path(__file__).with_name("shim.c")
SECTOR_BYTES = (512, 4096)
"""What a disk writes whole or not at all; a power cut draws one of them."""
_HEADER = struct.Struct("=QQ")
_RECORD = struct.Struct("=QQQQ")


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
    dial: str = ""
    """Which ports its process reaches elsewhere than they are; see ``shim.c``."""

    def environment(self) -> dict[str, str]:
        """What a process needs to run on this disk."""
        self.journal.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        dial = {"CHAOS_DIAL": self.dial} if self.dial else {}
        return dial | {
            "LD_PRELOAD": str(self.library),
            "CHAOS_DIR": str(self.data.resolve()),
            "CHAOS_JOURNAL": str(self.journal.resolve()),
            "CHAOS_CONTROL": str(self.control.resolve()),
            "CHAOS_SLOWED": str(self._slowed.resolve()),
            "CHAOS_FULL": str(self._full.resolve()),
        }

    @property
    def _slowed(self) -> Path:
        return self.control.with_name("slowed")

    @property
    def _full(self) -> Path:
        return self.control.with_name("full")

    def fill(self) -> None:
        """There is no room for more; see ``shim.c``."""
        self._full.touch()

    def make_room(self) -> None:
        """There is room again."""
        self._full.unlink(missing_ok=True)

    def slowed_syncs(self) -> int:
        """How many syncs have been delayed, ever."""
        return self._slowed.stat().st_size if self._slowed.exists() else 0

    def set_fault(self, text: str) -> None:
        """``fail TEXT`` or ``slow MS``; see ``shim.c``."""
        new = self.control.with_name(self.control.name + ".new")
        new.write_text(text + "\n", encoding="ascii")
        new.replace(self.control)

    def clear_fault(self) -> bool:
        """Be a good disk again; whether there was a fault that had not happened yet."""
        try:
            self.control.unlink()
        except FileNotFoundError:
            return False
        return True

    def lose_power(self, rng: random.Random) -> int:
        """Take back some, or all, of what no sync covered; the process must be dead.

        Returns:
            How many bytes were taken back.
        """
        paths = {path.stat().st_ino: path for path in self.data.rglob("*") if path.is_file()}
        lost = 0
        for file in sorted(self.journal.iterdir()):
            path = paths.get(int(file.name))
            if path is not None:  # else it was removed, and nothing of it can come back
                lost += _undo(path, _writes(file.read_bytes()), rng)
            file.unlink()
        return lost


class _Write(NamedTuple):
    """One change of a file that no sync has covered."""

    offset: int
    length: int
    size_before: int
    """Of the file."""
    before: bytes
    """What stood there, as far as the file went."""


def _writes(journal: bytes) -> list[_Write]:
    """What the journal holds, in the order of writing; see ``shim.c``."""
    if len(journal) < _HEADER.size:
        return []
    at, _ = _HEADER.unpack_from(journal)
    found = []
    while at + _RECORD.size <= len(journal):
        offset, length, kept, size = _RECORD.unpack_from(journal, at)
        at += _RECORD.size
        found.append(_Write(offset, length, size, journal[at : at + kept]))
        at += kept
    return found


def _undo(path: Path, writes: list[_Write], rng: random.Random) -> int:
    """Take all of ``writes`` back, or leave the file torn.

    Torn: each sector, and the size, is as it was after some number of the writes.
    """
    if not writes:
        return 0
    is_all_lost, sector_bytes = rng.random() < 0.5, rng.choice(SECTOR_BYTES)
    kept: defaultdict[int, int] = defaultdict(
        lambda: 0 if is_all_lost else rng.randint(0, len(writes))
    )
    sizes = [write.size_before for write in writes] + [path.stat().st_size]
    size = sizes[0 if is_all_lost else rng.randint(0, len(writes))]
    lost = max(0, sizes[-1] - size)
    with path.open("r+b") as file:
        for number, write in reversed(list(enumerate(writes))):
            old = write.before + bytes(write.length - len(write.before))
            for start, stop in _sectors(write, sector_bytes):
                if kept[start // sector_bytes] <= number:
                    os.pwrite(file.fileno(), old[start - write.offset : stop - write.offset], start)
                    lost += stop - start
        os.ftruncate(file.fileno(), size)
    return lost


def _sectors(write: _Write, sector_bytes: int) -> Iterator[tuple[int, int]]:
    """The pieces of the write, each in a sector of its own."""
    start, end = write.offset, write.offset + write.length
    while start < end:
        stop = min(start - start % sector_bytes + sector_bytes, end)
        yield start, stop
        start = stop
