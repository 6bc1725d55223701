"""Checksums of replicas, each at an applied index that the asker chose.

The state is held still on the loop, which costs microseconds, and read in a thread of this
module's own: a piece at a time with a pause after each, for the loop and the clients' scans go
first. Leader or follower makes no difference; that is the point.

What is held still keeps files and memory from being freed, so the number of requests that are
waited for, queued or read is bounded; beyond it they are refused as overloaded.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from kvstore.errors import CorruptionError, KVError, Overloaded, Unavailable
from kvstore.ids import LogIndex, Term
from kvstore.kv.engine import shard_range
from kvstore.server.checkpoints import Checkpoint
from kvstore.server.clients import as_answer
from kvstore.server.pending import Answer
from kvstore.storage.digest import ShardDigest
from kvstore.wire.checksums import ChecksumReply, encode_checksum_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from kvstore.ids import ShardId
    from kvstore.server.scheduling import Loop, Outcome
    from kvstore.server.shard_host import ShardHost

PENDING_MAX: Final = 16
"""Requests of one node without an answer yet."""

WAIT_S_MAX: Final = 10.0
"""How long a replica is waited for at most, whatever was asked."""

PIECE_ROWS: Final = 256
PIECE_BYTES: Final = 1 << 20
"""After so many rows or bytes, about half a millisecond of work, the thread pauses."""

PAUSE_S: Final = 0.0005


class Stateful(Protocol):
    """An engine whose state can be held still."""

    def snapshot_rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows of ``[start, end)`` as they are at this call, whatever is written later."""
        ...


class Asker(Answer, Protocol):
    """Who wants a checksum."""

    @property
    def is_wanted(self) -> bool:
        """Whether it still takes an answer."""
        ...


class Checksums:
    """Invariant: ``0 <= _pending <= PENDING_MAX``, one for each request without an answer."""

    def __init__(
        self,
        engine: Stateful,
        loop: Loop,
        thread: Executor,
        *,
        clock: Callable[[], float],
        on_damaged: Callable[[CorruptionError], None],
    ) -> None:
        """Nothing is asked yet; ``on_damaged`` is told of data that cannot be read."""
        self._engine = engine
        self._loop = loop
        self._thread = thread
        self._clock = clock
        self._on_damaged = on_damaged
        self._pending = 0
        self._is_stopped = False

    def ask(self, host: ShardHost, index: LogIndex, wait_s: float, asker: Asker) -> None:
        """Answer with the checksum of the state of ``host`` at ``index``.

        Or, if it is beyond, or does not reach it within ``wait_s``, with where it is.
        """
        if self._pending >= PENDING_MAX:
            asker.fail(Overloaded(f"{self._pending} checksums are being made; try again"))
        elif host.installing:
            asker.fail(host.being_replaced())
        else:
            self._pending += 1
            self._wait(host, index, wait_s, asker)

    def _wait(self, host: ShardHost, index: LogIndex, wait_s: float, asker: Asker) -> None:
        applied = LogIndex(host.machine.applied_index)
        if applied >= index:
            self._arrived(host, index, applied, asker)
            return
        host.checkpoints.add(
            Checkpoint(
                index,
                self._clock() + min(wait_s, WAIT_S_MAX),
                arrived=lambda applied: self._arrived(host, index, applied, asker),
                failed=lambda error: self._fail(asker, error),
            )
        )

    def stop(self) -> None:
        """The node stops: what is being read ends early."""
        self._is_stopped = True

    def _arrived(self, host: ShardHost, index: LogIndex, applied: LogIndex, asker: Asker) -> None:
        term = Term(host.machine.applied_term)
        if applied != index:
            self._reply(asker, encode_checksum_reply(ChecksumReply(applied, term, None, 0, 0)))
            return
        try:
            rows = self._engine.snapshot_rows(*shard_range(host.shard))
        except KVError as error:
            self._fail(asker, error)
            return

        def finished(done: Outcome[ShardDigest]) -> None:
            if done.cancelled():
                self._fail(asker, Unavailable("the node is stopping"))
            elif (error := done.exception()) is None:
                digest = done.result()
                reply = ChecksumReply(index, term, digest.checksum, digest.keys, digest.bytes)
                self._reply(asker, encode_checksum_reply(reply))
            elif isinstance(error, CorruptionError):
                self._on_damaged(error)
            else:
                self._fail(asker, as_answer(error, "checksum"))

        work = self._loop.run_in_executor(self._thread, lambda: self._read(host.shard, rows, asker))
        work.add_done_callback(finished)

    def _read(
        self, shard: ShardId, rows: Iterator[tuple[bytes, bytes]], asker: Asker
    ) -> ShardDigest:
        """In the thread: all rows, as long as somebody wants to know."""
        digest = ShardDigest(shard)
        while True:
            if self._is_stopped:
                raise Unavailable("the node is stopping")
            if not asker.is_wanted:
                raise Unavailable("the connection that asked is closed")
            if not digest.add(rows, PIECE_ROWS, PIECE_BYTES):
                return digest
            time.sleep(PAUSE_S)

    def _reply(self, asker: Asker, body: bytes) -> None:
        self._pending -= 1
        asker.reply(body)

    def _fail(self, asker: Asker, error: KVError) -> None:
        self._pending -= 1
        asker.fail(error)
