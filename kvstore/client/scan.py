"""A scan over all shards: pages of each, merged in key order.

What a scan promises:

* keys come in ascending order of their bytes, none twice;
* each page is a linearizable read of its shard: it shows every write acknowledged before the
  page was asked for, which was after the scan began;
* so a key that exists, unchanged, from the scan's begin to its end is seen exactly once, and
  one that is absent throughout is never seen;
* it is not a snapshot: of writes made during the scan some may be seen and others not,
  whatever their order.

Each shard is one page ahead of the merge, so that waiting for the network overlaps with the
caller's own work; memory is bounded by two pages per shard.
"""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING, TypeAlias

from kvstore.client.key_value import KeyValue

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable, Sequence

    from kvstore.wire.requests import ScanReply

    AskPage: TypeAlias = Callable[[bytes, int], asyncio.Future[ScanReply]]
    """Asks a shard for rows from a key on, at most so many; it must not wait."""


class ShardCursor:
    """One shard's rows of the range, in key order.

    Invariant: ``_rows`` holds, last first, what has come and was not taken.
    """

    def __init__(self, ask: AskPage, start: bytes, *, page_rows: int, limit: int | None) -> None:
        self._ask = ask
        self._page_rows = page_rows
        self._left = limit  # rows worth asking for; None: all
        self._rows: list[KeyValue] = []
        self._start = start
        self._page: asyncio.Future[ScanReply] | None = None
        self._has_more = True
        self._ask_ahead()

    def _ask_ahead(self) -> None:
        """Ask for the next page, if there is one that may be needed."""
        if not self._has_more or self._left == 0:
            self._page = None
            return
        rows = self._page_rows if self._left is None else min(self._page_rows, self._left)
        self._page = self._ask(self._start, rows)
        self._page.add_done_callback(_retrieve)

    async def next(self) -> KeyValue | None:
        """The next row, None after the last.

        Raises:
            KVError: the shard could not be read in time.
        """
        while not self._rows:
            if self._page is None:
                return None
            self._take(await self._next_page(self._page))
        return self._rows.pop()

    async def _next_page(self, page: asyncio.Future[ScanReply]) -> ScanReply:
        if page.done() and not page.cancelled() and page.exception() is not None:
            # It failed while the caller was busy elsewhere; the shard may be well again.
            self._ask_ahead()
            assert self._page is not None
            page = self._page
        try:
            return await page
        finally:
            del page  # it holds the error that is raised, which holds this frame

    def _take(self, page: ScanReply) -> None:
        rows = page.rows
        if rows:
            self._start = rows[-1][0] + b"\0"
        self._has_more = page.more and bool(rows)
        if self._left is not None:
            self._left = max(0, self._left - len(rows))
        self._rows = [KeyValue(key, value or b"", revision) for key, value, revision in rows]
        self._rows.reverse()
        self._ask_ahead()

    def close(self) -> None:
        """Nothing more will be taken."""
        if self._page is not None:
            self._page.cancel()
            self._page = None


def _retrieve(page: asyncio.Future[ScanReply]) -> None:
    """A page that fails and is not waited for any more is nobody's concern."""
    if not page.cancelled():
        page.exception()


async def merge(
    cursors: Sequence[ShardCursor], limit: int | None
) -> AsyncGenerator[KeyValue, None]:
    """Rows of all cursors in key order, at most ``limit``; closes the cursors.

    Raises:
        KVError: a shard could not be read in time.
    """
    try:
        firsts = [(await cursor.next(), position) for position, cursor in enumerate(cursors)]
        heap = [(row.key, position, row) for row, position in firsts if row is not None]
        heapify(heap)
        count = 0
        while heap and count != limit:
            _, position, row = heap[0]
            yield row
            count += 1
            following = await cursors[position].next()
            if following is None:
                heappop(heap)
            else:
                heapreplace(heap, (following.key, position, following))
    finally:
        for cursor in cursors:
            cursor.close()
