"""What one frame asks of one shard, and how its answer reaches the callers.

A batch gathers operations until :meth:`begin` fixes it; from then on every attempt sends the
same bytes, so that a shard recognises a write that it has already run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kvstore.client.key_value import KeyValue
from kvstore.client.operations import Operations
from kvstore.errors import KVError
from kvstore.ids import Revision, ShardId
from kvstore.kv import replies
from kvstore.kv.commands import PUT, encode_batch
from kvstore.wire import requests
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    import asyncio

    from kvstore.client.read_window import ReadWindow
    from kvstore.client.session import Session

NO_MIN_REVISION = Revision(0)


class Batch(Protocol):
    """A frame's worth of operations on one shard."""

    @property
    def kind(self) -> Kind:
        """The kind of the request's frame."""
        ...

    @property
    def operations(self) -> Operations:
        """Who waits for the answer."""
        ...

    def encode(self, map_version: int) -> bytes:
        """The request's body; after :meth:`begin`, for every attempt."""
        ...

    def settle(self, body: bytes) -> KVError | None:
        """Give the callers what the reply ``body`` holds, or return the refusal in it.

        Raises:
            ProtocolError: malformed.
        """
        ...

    def end(self) -> None:
        """No attempt of it will be made any more."""
        ...


class WriteBatch:
    """Commands, numbered within a session."""

    __slots__ = ("_encoded", "_seq", "_shard", "operations", "session")
    kind = Kind.WRITE

    def __init__(self, shard: ShardId, operations: Operations | None = None) -> None:
        self.operations = Operations() if operations is None else operations
        self._shard = shard
        self.session: Session | None = None
        self._seq = 0
        self._encoded = b""

    def begin(self, session: Session) -> bool:
        """Take a number in ``session`` and fix the commands, without callers who left.

        Returns:
            False if nobody waits for it any more; nothing is taken then.
        """
        if not self.operations.drop_unwanted():
            return False
        self.session = session
        self._seq, ack_below = session.begin()
        self._encoded = encode_batch(
            session.created, session.nonce, self._seq, ack_below, self.operations.commands
        )
        return True

    def end(self) -> None:
        """It will not be sent again under its number."""
        if self.session is not None:
            self.session.settle(self._seq)
            self.session = None

    def encode(self, map_version: int) -> bytes:
        """The body of a WRITE."""
        return requests.encode_write(
            requests.WriteRequest(map_version, self._shard, len(self.operations), self._encoded)
        )

    def settle(self, body: bytes) -> KVError | None:
        """A put gets its revision; a delete or compare-and-swap, whether it did something."""
        waiting = self.operations
        reply = replies.decode_reply(body, len(waiting))
        if isinstance(reply, KVError):
            return reply
        revisions = range(reply.first_revision, reply.first_revision + len(waiting))
        for command, future, revision, effect in zip(
            waiting.commands, waiting.futures, revisions, reply.effects, strict=True
        ):
            if not future.done():
                future.set_result(revision if command[0] == PUT else effect)
        return None


class ReadBatch:
    """Keys to read."""

    __slots__ = ("_shard", "_window", "operations")
    kind = Kind.READ

    def __init__(self, shard: ShardId, operations: Operations | None = None) -> None:
        self.operations = Operations() if operations is None else operations
        self._shard = shard
        self._window: ReadWindow | None = None

    def begin(self, window: ReadWindow) -> bool:
        """Take room in ``window`` and fix the keys, without callers who left.

        Returns:
            False if nobody waits for it any more; nothing is taken then.
        """
        if not self.operations.drop_unwanted():
            return False
        self._window = window
        window.begin(len(self.operations))
        return True

    def end(self) -> None:
        """Its room is free."""
        if self._window is not None:
            self._window.end(len(self.operations))
            self._window = None

    def encode(self, map_version: int) -> bytes:
        """The body of a READ."""
        keys = self.operations.commands
        return requests.encode_read(
            requests.ReadRequest(
                map_version, self._shard, requests.ReadMode.LINEARIZABLE, keys, NO_MIN_REVISION
            )
        )

    def settle(self, body: bytes) -> KVError | None:
        """Each caller gets its item, or None."""
        waiting = self.operations
        rows = requests.decode_read_reply(body, len(waiting))
        new = tuple.__new__  # a NamedTuple's own __new__ costs twice as much
        for key, future, row in zip(waiting.commands, waiting.futures, rows, strict=True):
            if not future.done():
                found = None if row is None else new(KeyValue, (key, row[0], row[1]))
                future.set_result(found)
        return None


class ScanPage:
    """One page of one shard; its only operation's command is the request itself."""

    __slots__ = ("_request", "operations")
    kind = Kind.SCAN

    def __init__(
        self,
        request: requests.ScanRequest,
        future: asyncio.Future[requests.ScanReply],
        deadline: float,
    ) -> None:
        self._request = request
        self.operations = Operations()
        self.operations.add(request, future, 0, deadline)
        # A scan asks for a page per shard at a time: bounded without the gate.
        self.operations.absent = -1

    def end(self) -> None:
        """Nothing was taken."""

    def encode(self, map_version: int) -> bytes:
        """The body of a SCAN."""
        return requests.encode_scan(self._request._replace(map_version=map_version))

    def settle(self, body: bytes) -> KVError | None:
        """The caller gets the page."""
        reply = requests.decode_scan_reply(body)
        (future,) = self.operations.futures
        if not future.done():
            future.set_result(reply)
        return None
