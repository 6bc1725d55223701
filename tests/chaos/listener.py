"""A listening socket, each of whose connections has an owner from the moment it is accepted.

``asyncio.Server`` makes no such promise: between its accepting a connection and the first step
of the task that takes it over, ``close()`` leaves it to nobody, open until the garbage
collector finds it (CPython issue 109564). Here accepting, listening no more, and the task
that closes the socket in any case are each one step of the event loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial

HOST = "127.0.0.1"
BACKLOG = 128

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """``serve`` is called for each connection, which is cut when it returns.

    May listen and stop again any number of times; the connections stay.
    """

    def __init__(self, port: int, serve: Serve) -> None:
        self._port = port
        self._serve = serve
        self._socket: socket.socket | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    def listen(self) -> None:
        """Let callers in from now on.

        Raises:
            OSError: the port cannot be had.
        """
        assert self._socket is None
        self._socket = socket.create_server((HOST, self._port), backlog=BACKLOG)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._accept, self._socket)

    def stop_listening(self) -> None:
        """The kernel refuses whoever comes from now on, and resets whoever waited."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def close(self) -> None:
        """Listen no more and cut all connections; raises what serving one of them failed with."""
        self.stop_listening()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._failures:
            raise self._failures[0]

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it is gone again
            return
        task = asyncio.get_running_loop().create_task(self._adopt(accepted))
        self._connections.add(task)
        task.add_done_callback(partial(self._ended, accepted))

    async def _adopt(self, accepted: socket.socket) -> None:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        transport, protocol = await loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(reader), accepted
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._serve(reader, writer)
        finally:
            transport.abort()

    def _ended(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        accepted.close()  # here too, for a task may be cancelled before its first step
        self._connections.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failures.append(failure)
