"""Reads of many keys go a few at a time, and in between the loop sees to all else.

A key that is in memory costs a microsecond, one that RocksDB has to look for ten or more; a
request may ask for thousands, and thousands of requests may be confirmed at one moment. Were all
of them answered at once, nobody would hear this node meanwhile, and its shards would look for
other leaders. So there is a bound on what one iteration of the loop reads, and what is beyond it
waits its turn. That is no less linearizable: what a read finds later is as recent at least.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from kvstore.errors import InvalidArgument, KVError, Unavailable
from kvstore.net.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvstore.server.pending import Answer
    from kvstore.server.scheduling import Loop
    from kvstore.server.shard_host import ShardHost

KEYS_A_TURN: Final = 512
"""At most 5 ms if RocksDB has to look for all of them."""
KEYS_A_STEP: Final = 64
BYTES_PER_KEY: Final = 8192
"""So many bytes that were read count as one more key."""
RELIEVED_EVERY_BYTES: Final = 32 * 1024 * 1024
SCANS_AT_ONCE: Final = 4
"""Twice the threads. Of more the pages might wait for their answer faster than those are taken."""

Row = tuple[bytes, int]


class Reads:
    """What may be read now, and what waits for its turn.

    It also counts the bytes of answers: those that nobody takes are charged to no request, and
    would fill the memory before the connections are looked at in the usual course.
    """

    def __init__(
        self,
        loop: Loop,
        guarded: Callable[[Callable[[], None]], None],
        relieve: Callable[[], None],
    ) -> None:
        """Make one with nothing to read.

        Args:
            loop: Its iterations are the turns.
            guarded: Runs what must stop the node if it fails.
            relieve: Ends connections if all together hold too much that is not taken.
        """
        self.turns: Final = Turns(lambda turn: loop.call_soon(guarded, turn), budget=KEYS_A_TURN)
        self._relieve = relieve
        self._answered_bytes = 0
        """Since connections were looked at."""

    def may_read(self, keys: int) -> bool:
        """Whether so many keys may be read right now; if so they count."""
        if self.turns.is_waited_for or keys > self.turns.left:
            return False
        self.turns.spend(keys)
        return True

    def answered(self, size_bytes: int) -> None:
        """An answer of so many bytes was handed to its connection."""
        self._answered_bytes += size_bytes
        if self._answered_bytes >= RELIEVED_EVERY_BYTES:
            self._answered_bytes = 0
            self._relieve()


class LongRead:
    """One request, answered once its last key was read."""

    def __init__(
        self,
        reads: Reads,
        host: ShardHost,
        keys: Sequence[bytes],
        answer: Answer,
        *,
        bytes_max: int,
        encode: Callable[[list[Row | None]], bytes],
        why_not: Callable[[], KVError | None],
    ) -> None:
        """Begin with none.

        Args:
            reads: Whose turns it takes.
            host: Has the keys.
            keys: At least one.
            answer: Gets the reply.
            bytes_max: Of all values together.
            encode: Makes the reply of the rows.
            why_not: Why the answer is not wanted, or not to be had here, any more.
        """
        self._reads = reads
        self._host = host
        self._installs = host.installs
        self._keys = keys
        self._answer = answer
        self._bytes_max = bytes_max
        self._encode = encode
        self._why_not = why_not
        self._rows: list[Row | None] = []
        self._size_bytes = 0
        """Of the values that were read."""
        self._is_done = False

    def take_turn(self) -> None:
        """Read some of the keys; see :class:`kvstore.net.turns.Listener`."""
        turns = self._reads.turns
        turns.spend(self._step())
        if not self._is_done:
            turns.put(self)
        else:
            self._reads.answered(self._size_bytes)

    def _step(self) -> int:
        """The result is what it took of the turn."""
        error = self._why_not()
        if error is None and (self._host.installing or self._host.installs != self._installs):
            error = Unavailable(f"{self._host.name}: the replica was replaced")
        if error is not None:
            self._fail(error)
            return 1
        keys = self._keys[len(self._rows) : len(self._rows) + KEYS_A_STEP]
        try:
            rows = self._host.machine.get_many(keys, self._bytes_max)
        except InvalidArgument as too_large:
            self._fail(too_large)
            return KEYS_A_STEP
        size_bytes = sum(len(row[0]) for row in rows if row is not None)
        self._rows += rows
        self._size_bytes += size_bytes
        if self._size_bytes > self._bytes_max:
            told = f"the values together exceed {self._bytes_max} bytes; ask for fewer keys"
            self._fail(InvalidArgument(told))
        elif len(self._rows) == len(self._keys):
            self._is_done = True
            self._answer.reply(self._encode(self._rows))
        return len(keys) + size_bytes // BYTES_PER_KEY

    def _fail(self, error: KVError) -> None:
        self._is_done = True
        self._answer.fail(error)


class Scans:
    """Pages are read in threads. Invariant: not more than so many at once; the others wait."""

    def __init__(self) -> None:
        self._under_way = 0
        self._waiting: deque[Callable[[], bool]] = deque()
        self._is_over = False

    def begin(self, start: Callable[[], bool]) -> None:
        """Run ``start`` in its turn. It says whether a page is being read: then :meth:`ended`."""
        self._waiting.append(start)
        self._go_on()

    def ended(self) -> None:
        """A page was read."""
        self._under_way -= 1
        self._go_on()

    def stop(self) -> None:
        """None is begun any more, for the threads and all connections are about to end."""
        self._is_over = True

    def _go_on(self) -> None:
        while self._waiting and self._under_way < SCANS_AT_ONCE and not self._is_over:
            self._under_way += self._waiting.popleft()()
