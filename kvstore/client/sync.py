"""The client for programs without an event loop: same names, each call waits.

One thread runs a loop with one :class:`~kvstore.client.client.Client` in it. Any number of
threads may call; their operations share frames as the tasks of one loop do. A process that is
forked off has no such thread: it must connect anew.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kvstore.client.client import Client, connect
from kvstore.errors import InvalidArgument, KVError, Unavailable, copy_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
    from types import TracebackType

    from kvstore.client.arguments import Text
    from kvstore.client.client import Location, NodeStatus
    from kvstore.client.key_value import KeyValue
    from kvstore.client.options import ClientOptions
    from kvstore.ids import Revision
    from kvstore.sharding.shard_map import ShardMap

SCAN_ROWS_PER_HOP = 256
"""Items fetched from the loop's thread at a time."""
LAST_CALLS_S: Final = 1.0
"""So long those that were under way at the end may take to hear of it."""
CLOSE_S_MAX: Final = 10.0
"""So long the end may take in all: then the thread, which is a daemon, is left to itself."""

T = TypeVar("T")


def connect_sync(
    endpoints: str | Iterable[str],
    *,
    timeout_s: float | None = None,
    cluster_id: str | None = None,
    options: ClientOptions | None = None,
) -> SyncClient:
    """Like :func:`~kvstore.client.client.connect`, to be entered with ``with``."""
    return SyncClient(
        connect(endpoints, timeout_s=timeout_s, cluster_id=cluster_id, options=options)
    )


class SyncClient:
    """See :class:`~kvstore.client.client.Client`, whose methods these are."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        """The process that has the thread, if there is one."""
        self._submitting = threading.Lock()
        """Held where a call enters the loop: after its end none does."""

    # -- opening and closing ------------------------------------------------------------------

    def __enter__(self) -> SyncClient:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start the thread and connect; ``with`` does this. May be repeated if it failed."""
        if self._is_forked:
            raise self._not_ours()
        if self._thread is not None:
            raise InvalidArgument("a client is opened once")
        import uvloop  # only who needs a loop of its own pays for it

        self._pid = os.getpid()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(
            target=_run, args=(self._loop,), name="kvstore-client", daemon=True
        )
        self._thread.start()
        try:
            self._wait(self._client.open)
        except KVError:
            self._end_thread()
            self._thread = None
            raise
        except BaseException:  # it may have been opened all the same
            self.close()
            raise

    def close(self) -> None:
        """Fail the calls that are under way and end the thread. May be repeated.

        In a process that was forked off since the client was opened, nothing happens.
        """
        if self._is_forked:
            return
        self._end_thread(self._client.close)

    def _end_thread(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Let no more calls in, and end the thread, after the ``last`` call if there is one."""
        with self._submitting:
            loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        try:
            if last is not None:
                with suppress(TimeoutError):
                    asyncio.run_coroutine_threadsafe(last(), loop).result(CLOSE_S_MAX)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(CLOSE_S_MAX)

    @property
    def _is_forked(self) -> bool:
        """Whether the thread is in another process: here nobody would ever answer."""
        return self._thread is not None and self._pid != os.getpid()

    def _wait(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """Run one of the client's calls in the loop's thread and wait for its outcome."""
        if self._is_forked:  # asked first: a thread of the other process may have held the lock
            raise self._not_ours()
        with self._submitting:
            loop = self._loop
            if loop is None:
                raise self._not_open()
            future = asyncio.run_coroutine_threadsafe(call(*args, **kwargs), loop)
        try:
            return future.result()
        except CancelledError:
            raise Unavailable("the client is closed", retryable=False) from None
        except BaseException:
            future.cancel()
            raise
        finally:
            del future  # it holds the error that is raised, which holds this frame

    def _not_ours(self) -> KVError:
        return InvalidArgument("another process opened this client: connect anew after a fork")

    def _not_open(self) -> KVError:
        if self._thread is None:
            return InvalidArgument("the client is not open: use it by `with connect_sync(...)`")
        return Unavailable("the client is closed", retryable=False)

    # -- keys and values ----------------------------------------------------------------------

    def put(self, key: Text, value: Text, *, timeout_s: float | None = None) -> Revision:
        """Store ``value`` under ``key``; returns the revision of the change."""
        return self._wait(self._client.put, key, value, timeout_s=timeout_s)

    def get(self, key: Text, *, timeout_s: float | None = None) -> KeyValue | None:
        """The value of ``key`` and its revision; None if there is none."""
        return self._wait(self._client.get, key, timeout_s=timeout_s)

    def delete(self, key: Text, *, timeout_s: float | None = None) -> bool:
        """Remove ``key``; returns whether it was there."""
        return self._wait(self._client.delete, key, timeout_s=timeout_s)

    def compare_and_swap(
        self, key: Text, expected: Text | None, value: Text, *, timeout_s: float | None = None
    ) -> bool:
        """Store ``value`` if the present one equals ``expected``; returns whether it did."""
        return self._wait(self._client.compare_and_swap, key, expected, value, timeout_s=timeout_s)

    def scan(
        self,
        prefix: Text = b"",
        *,
        start: Text | None = None,
        end: Text | None = None,
        limit: int | None = None,
        keys_only: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[KeyValue]:
        """Iterate over the items whose keys begin with ``prefix``, in key order."""
        rows = self._client.scan(
            prefix, start=start, end=end, limit=limit, keys_only=keys_only, timeout_s=timeout_s
        )
        try:
            while True:
                items, error = self._wait(_some, rows)
                yield from items
                if error is not None:
                    raise copy_of(error)
                if len(items) < SCAN_ROWS_PER_HOP:
                    return
        finally:
            if self._loop is not None and not self._is_forked:
                self._wait(rows.aclose)

    # -- the cluster --------------------------------------------------------------------------

    def shard_map(self, *, timeout_s: float | None = None) -> ShardMap:
        """The shard map as a reachable node has it now."""
        return self._wait(self._client.shard_map, timeout_s=timeout_s)

    def locate(self, key: Text, *, timeout_s: float | None = None) -> Location:
        """The shard of ``key``, the nodes that hold it, and which of them leads."""
        return self._wait(self._client.locate, key, timeout_s=timeout_s)

    def node_statuses(self, *, timeout_s: float | None = None) -> list[NodeStatus]:
        """Ask every node of the shard map how it is."""
        return self._wait(self._client.node_statuses, timeout_s=timeout_s)


async def _some(rows: AsyncGenerator[KeyValue, None]) -> tuple[list[KeyValue], KVError | None]:
    """The next items, fewer than a full hop only at the end; and how it ended, if badly."""
    items: list[KeyValue] = []
    try:
        async for row in rows:
            items.append(row)
            if len(items) == SCAN_ROWS_PER_HOP:
                break
    except KVError as error:
        return items, error
    return items, None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        _end_calls(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _end_calls(loop: asyncio.AbstractEventLoop) -> None:
    """Let calls that came just before the end hear how they ended: somebody waits for each."""
    if left := asyncio.all_tasks(loop):
        _, late = loop.run_until_complete(asyncio.wait(left, timeout=LAST_CALLS_S))
        for task in late:
            task.cancel()
        if late:
            loop.run_until_complete(asyncio.wait(late, timeout=LAST_CALLS_S))
