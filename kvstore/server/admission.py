"""How much work a node takes on: refuse early, never buffer without bound.

Every client request is charged for the bytes it brought until its answer is on the way.
Beyond the bound it is refused as overloaded, which a client may retry: a short queue that
says no keeps latency flat, a long one only moves the collapse.
"""

from __future__ import annotations

from kvstore.errors import DiskFull, Overloaded

REQUEST_OVERHEAD_BYTES = 256
"""Charged on top of a request's body for what the node keeps about it."""


class Admission:
    """Bytes of client requests in progress. Invariant: ``0 <= pending_bytes``."""

    def __init__(self, *, pending_bytes_max: int) -> None:
        self._pending_bytes_max = pending_bytes_max
        self.pending_bytes = 0
        self.disk_full = False
        """Set while the log or the file system has no room for another write."""

    def admit(self, body_bytes: int) -> int:
        """Charge a request; the result is what :meth:`release` must give back.

        Raises:
            Overloaded: the node holds as much as it may.
        """
        cost = body_bytes + REQUEST_OVERHEAD_BYTES
        if self.pending_bytes + cost > self._pending_bytes_max and self.pending_bytes:
            raise Overloaded(f"{self.pending_bytes} bytes of requests are pending; try again")
        self.pending_bytes += cost
        return cost

    def admit_write(self, body_bytes: int) -> int:
        """Like :meth:`admit`, for a request that needs room on the disk.

        Raises:
            DiskFull: there is no room; nothing was changed.
            Overloaded: the node holds as much as it may.
        """
        if self.disk_full:
            raise DiskFull("the node's disk is full; reads go on, writes resume with room")
        return self.admit(body_bytes)

    def release(self, cost: int) -> None:
        """The request was answered or given up."""
        self.pending_bytes -= cost
        assert self.pending_bytes >= 0
