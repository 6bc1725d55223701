"""A node's log: the real writer, segments and format on the simulated disk, without a thread.

A write takes time. What is appended meanwhile gathers for the next one, as behind the real
writer thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.errors import DiskFull, Internal
from kvstore.storage.records import RecordType, peek
from kvstore.storage.writer import RETRY_S, Append, Close, LogWriter, Order, Release, Reports
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kvstore.ids import GroupId, LogIndex
    from kvstore.storage.segments import Segments
    from sim.node import SimNode


class SimLog:
    """Like :class:`kvstore.storage.wal.Wal`, on simulated time."""

    def __init__(
        self,
        node: SimNode,
        segments: Segments,
        *,
        write_s_max: float,
        on_durable: Callable[[Sequence[bytes]], None],
    ) -> None:
        self._node = node
        self._write_s_max = write_s_max
        self._on_durable = on_durable
        self._waiting: list[Order] = []
        self._taken: list[Order] = []
        """What the next write will take."""
        self._in_flight = 0
        self._is_busy = False
        self.disk_full = False
        self._segments = segments
        self._writer = LogWriter(
            segments,
            Reports(durable=self._durable, disk_full=self._full, fatal=node.die),
            clock=node.clock,
        )

    @property
    def live_bytes(self) -> int:
        return self._writer.live_bytes

    def append(
        self, records: Sequence[bytes], done: Callable[[], None], *, urgent: bool = False
    ) -> None:
        if urgent and any(peek(record)[0] != RecordType.HARD_STATE for record in records):
            raise Violation(f"{self._node.id} lets more than votes overtake the log")
        if not records and not self._in_flight:
            self._in_flight = 1
            self._node.loop.call_soon(self._run, [done])
            return
        self._in_flight += 1

        def durable() -> None:
            self._on_durable(records)
            done()

        self._order(Append(records, sum(map(len, records)), durable, urgent))

    def write_now(self, records: Sequence[bytes]) -> None:
        """Return once ``records`` are durable: what a start waits for.

        Raises:
            DiskFull: there is no room for them.
        """
        written: list[bool] = []
        self._in_flight += 1

        def durable() -> None:
            self._on_durable(records)
            written.append(True)

        self._writer.orders.put(Append(records, sum(map(len, records)), durable, False))
        self._writer.step()
        self._node.loop.drain()
        if not written:
            raise DiskFull("the log has no room for what a start has to note")

    def release(self, covered: Mapping[GroupId, LogIndex]) -> None:
        self._order(Release(dict[int, int](covered.items())))

    def _order(self, order: Order) -> None:
        self._waiting.append(order)
        if not self._is_busy:
            self._begin()

    def _begin(self) -> None:
        """Write all that has gathered; it is done when the time of a write has passed."""
        self._is_busy = True
        self._taken, self._waiting = self._waiting, []
        delay_s = self._node.rng.random() * self._write_s_max
        if self.disk_full:
            delay_s = max(delay_s, 2 * RETRY_S)
        self._node.later(delay_s, self._write)

    def _write(self) -> None:
        for order in self._taken:
            self._writer.orders.put(order)
        self._taken = []
        try:
            self._writer.step()
        except OSError as error:
            self._node.die(Internal(f"the log cannot be written: {error}"))
            return
        except Internal as error:
            self._node.die(error)
            return
        self._is_busy = False
        if self._waiting or self.disk_full:
            self._begin()

    def close(self) -> None:
        """Write what waits, unless there is no room for it, and end as the writer does."""
        for order in (*self._taken, *self._waiting, Close()):
            self._writer.orders.put(order)
        try:
            self._writer.step()
            self._segments.close()
        except (OSError, Internal) as error:
            self._node.die(error)

    def _durable(self, dones: list[Callable[[], None]]) -> None:
        self._node.loop.call_soon(self._run, dones)

    def _run(self, dones: list[Callable[[], None]]) -> None:
        self._in_flight -= len(dones)
        for done in dones:
            done()

    def _full(self, full: bool) -> None:
        self.disk_full = full
        self._node.disk_watch.log_full(full)
