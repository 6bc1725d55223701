"""What was written, and what of it must be found again. Pure.

Each write has a number, which only rises, and its value tells key and number. A key has one write
under way at a time, so what it must hold is known: the last that was acknowledged, or one whose
outcome nobody has told.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

VALUE_BYTES = 256
ABSENT = 0
"""Instead of a write's number: the key was never written. Numbers begin with 1."""


def key_of(number: int) -> bytes:
    """The name of the key with this number."""
    return b"key-%08d" % number


def value_of(number: int, write: int) -> bytes:
    """What the write with this number puts under the key with that one."""
    return (b"%020d %s " % (write, key_of(number))).ljust(VALUE_BYTES, b".")


@dataclass(frozen=True, slots=True)
class Findings:
    """What reading everything back has shown."""

    keys: int
    """Distinct ones that were read and are ours."""
    lost: int = 0
    """Not there, though a write was acknowledged; or older than it."""
    duplicated: int = 0
    """More than once in one scan."""
    foreign: int = 0
    """Keys that nobody wrote, or values that nobody put there."""
    unknown: int = 0
    """Keys with a write of which nobody has told whether it was applied."""

    @property
    def is_good(self) -> bool:
        """Whether all is as it must be."""
        return not (self.lost or self.duplicated or self.foreign)

    def to_json(self) -> dict[str, int]:
        """For the file and for the pipe."""
        return asdict(self)


class Ledger:
    """Invariant: a key in ``_under_way`` has no other write under way."""

    def __init__(self, keys: int) -> None:
        """Nothing is written yet."""
        self._acknowledged = [ABSENT] * keys
        self._unknown: dict[int, set[int]] = {}
        self._under_way: set[int] = set()
        self._last_write = ABSENT

    def begin(self, number: int) -> int | None:
        """The number of a new write of a key; None while another is under way."""
        if number in self._under_way:
            return None
        self._under_way.add(number)
        self._last_write += 1
        return self._last_write

    def acknowledge(self, number: int, write: int) -> None:
        """The write was answered: it, or what comes after it, must be there."""
        self._under_way.discard(number)
        self._acknowledged[number] = write

    def fail(self, number: int, write: int, *, may_have_applied: bool) -> None:
        """The write has failed; where nobody knows how it ended, it may be found, even late."""
        self._under_way.discard(number)
        if may_have_applied:
            self._unknown.setdefault(number, set()).add(write)

    def floor(self, number: int) -> int:
        """The write that a read that begins now must see, or a later one."""
        return self._acknowledged[number]

    def is_right(self, number: int, value: bytes | None, floor: int) -> bool:
        """Whether a read that began when :meth:`floor` was ``floor`` may have found ``value``."""
        if value is None:
            return floor == ABSENT
        write = _write_in(number, value)
        if write is None or not ABSENT < write <= self._last_write:
            return False
        return write >= floor or write in self._unknown.get(number, ())

    def compare(self, rows: Iterable[tuple[bytes, bytes]]) -> Findings:
        """Hold a whole scan against what must be there; nothing may be under way."""
        assert not self._under_way
        found: Counter[int] = Counter()
        lost = foreign = 0
        numbers = {key_of(number): number for number in range(len(self._acknowledged))}
        for key, value in rows:
            number = numbers.get(key)
            if number is None:
                foreign += 1
                continue
            found[number] += 1
            write = _write_in(number, value)
            if write == self._acknowledged[number] or write in self._unknown.get(number, ()):
                continue
            is_older = write is not None and write < self._acknowledged[number]
            lost += is_older
            foreign += not is_older
        missing = (n for n, write in enumerate(self._acknowledged) if write and not found[n])
        return Findings(
            keys=len(+found),
            lost=lost + sum(1 for _ in missing),
            duplicated=sum(count - 1 for count in found.values() if count > 1),
            foreign=foreign,
            unknown=len(self._unknown),
        )


def _write_in(number: int, value: bytes) -> int | None:
    """The number of the write that put ``value`` under this key; None if none did."""
    digits = value[:20]
    write = int(digits) if digits.isdigit() else None
    return write if write is not None and value == value_of(number, write) else None
