"""Listening: who may come in, how many, and what becomes of those who misbehave.

A connection is a stranger until its hello is accepted. Strangers and clients are bounded
apart, and peers are never kept out by either: a full house of clients, or a flood of
connections that say nothing, must not cost the cluster its majority. Peers are bounded in
number, and by having one connection per node and lane: a new one takes the place of the old,
which its dialler has given up without our noticing. The connections of a node are all of one
data directory: when another one is let in by its name, those of the last are cut.

What clients ask is bounded for all of them together in each iteration of the loop; a peer has a
bound of its own, which it reaches only if it misbehaves.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from kvstore.errors import Overloaded, ProtocolError, Refused, StartupError, Unavailable
from kvstore.net.connection import FrameConnection
from kvstore.net.repeats import FewLines, RepeatFilter
from kvstore.net.tasks import start_task, stop_tasks
from kvstore.net.transport import Lane
from kvstore.net.turns import Turns
from kvstore.wire.frames import encode_frame
from kvstore.wire.hello import (
    NOT_SAID,
    Hello,
    Welcome,
    decode_hello,
    encode_welcome,
    negotiate,
)
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvstore.errors import KVError
    from kvstore.ids import NodeId
    from kvstore.net.connection import ConnectionCallback, FramesCallback
    from kvstore.net.limits import NetLimits
    from kvstore.wire.frames import Frame

    HelloCallback: TypeAlias = Callable[[FrameConnection, Hello], Welcome]

log = logging.getLogger(__name__)

_BACKLOG = 1024
_LANES = frozenset(lane.value for lane in Lane)
CONTACTS_PER_PEER: Final = 4
_Place: TypeAlias = tuple[int, int]
"""A peer's lane, and which of its connections there."""


class FrameServer:
    """Listens at one address; owns every connection it has accepted.

    ``on_hello`` looks at who comes and returns what this node says of itself, or raises a
    KVError to turn it away. ``on_frames`` gets the application frames of each arrival, in
    order; the connection's ``hello`` says from whom. ``on_closed`` is called once for each
    connection whose hello was accepted. None of them may block.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        limits: NetLimits,
        on_hello: HelloCallback,
        on_frames: FramesCallback,
        on_closed: ConnectionCallback | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._limits = limits
        self._on_hello = on_hello
        self._on_frames = on_frames
        self._on_closed = on_closed
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._strangers: dict[FrameConnection, float] = {}  # in order of arrival
        self._guests: set[FrameConnection] = set()
        self._clients = 0
        self._peers: dict[NodeId, dict[_Place, FrameConnection]] = {}  # never empty
        self._client_turns: Turns
        self._complaints = RepeatFilter()
        self._complaint_lines = FewLines(log, "connections that were closed")

    @property
    def port(self) -> int:
        """The port listened at; known also when 0 was asked for."""
        return self._port

    @property
    def connection_count(self) -> int:
        """How many connections are open, those without a hello included."""
        return len(self._strangers) + len(self._guests)

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            StartupError: the address cannot be listened at; one line says why.
        """
        loop = asyncio.get_running_loop()
        self._client_turns = Turns()
        try:
            self._server = await loop.create_server(
                self._new_connection, self._host, self._port, backlog=_BACKLOG
            )
        except (OSError, ValueError) as error:  # the latter for a name that no host can have
            raise StartupError(_cannot_listen(self._host, self._port, error)) from error
        self._port = self._server.sockets[0].getsockname()[1]
        self._sweeper = start_task(self._sweep_forever(), f"sweep of port {self._port}")

    async def close(self, deadline_s: float = 1.0) -> None:
        """Listen no more, say goodbye, and return when all is closed.

        Connections that do not end within ``deadline_s`` are cut.
        """
        if self._server is not None:
            self._server.close()
        if self._sweeper is not None:
            await stop_tasks(self._sweeper)
        connections = [*self._strangers, *self._guests]
        for connection in connections:
            connection.close()
        waits = [connection.closed for connection in connections]
        if waits:
            await asyncio.wait(waits, timeout=deadline_s)
        for connection in connections:
            connection.abort()
        if waits:
            await asyncio.wait(waits)
        if self._server is not None:
            await self._server.wait_closed()

    # -- coming in --------------------------------------------------------------------------

    def _new_connection(self) -> FrameConnection:
        return FrameConnection(
            self._limits,
            on_frames=self._first_frames,
            on_opened=self._opened,
            on_closed=self._closed,
            turns=Turns(),
        )

    def _opened(self, connection: FrameConnection) -> None:
        if len(self._strangers) >= self._limits.handshakes_max:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            if oldest.is_open:
                error = Overloaded("too many connections that have not said hello")
                oldest.close(error, lingers=False)
            else:
                oldest.abort()  # it was turned away, and lingers to read why
        self._strangers[connection] = asyncio.get_running_loop().time()

    def _first_frames(self, connection: FrameConnection, frames: list[Frame]) -> None:
        """The handshake; whatever it raises closes the connection with that error."""
        first = frames[0]
        if first.kind != Kind.HELLO:
            raise ProtocolError(f"the first message must be a hello, not of kind {first.kind}")
        hello = decode_hello(first.body)
        connection.hello = hello
        self._check_room(hello)
        if hello.role == "peer" and hello.lane not in _LANES:
            raise Refused(f"unknown lane {hello.lane}")
        protocol = negotiate(hello.protocol_min, hello.protocol_max)
        welcome = replace(self._on_hello(connection, hello), protocol=protocol)
        self._let_in(connection, hello)
        connection.send(encode_frame(Kind.WELCOME, first.request, encode_welcome(welcome)))
        connection.establish(self._on_frames, frames[1:])

    def _check_room(self, hello: Hello) -> None:
        if hello.role == "client":
            if self._clients >= self._limits.connections_max:
                raise Overloaded(f"this node serves {self._clients} clients, as many as it may")
            return
        if hello.node_id not in self._peers and len(self._peers) >= self._limits.peers_max:
            raise Overloaded(f"this node has {len(self._peers)} peers, as many as it may")
        connections = len(self._guests) - self._clients
        if connections >= self._limits.peer_connections_max and not self._is_back(hello):
            raise Overloaded(f"this node has {connections} connections of peers, as many as it may")

    def _is_back(self, hello: Hello) -> bool:
        """Whether the connection would take the place of another one."""
        places = {} if hello.node_id is None else self._peers.get(hello.node_id, {})
        return any(lane == hello.lane for lane, _ in places)

    def _let_in(self, connection: FrameConnection, hello: Hello) -> None:
        del self._strangers[connection]
        self._guests.add(connection)
        if hello.role == "client":
            self._clients += 1
            connection.turns = self._client_turns
        elif hello.node_id is not None and hello.lane is not None:
            places = self._peers.setdefault(hello.node_id, {})
            place = _place(hello.lane, places)
            earlier = [places.pop(place)] if place in places else []
            earlier += [held for held in places.values() if _makes_way(held, hello)]
            places[place] = connection
            for replaced in earlier:
                replaced.abort()

    def _let_out(self, connection: FrameConnection, hello: Hello) -> None:
        self._guests.remove(connection)
        if hello.role == "client":
            self._clients -= 1
        elif hello.node_id is not None and hello.lane is not None:
            places = self._peers.get(hello.node_id, {})
            for place in [place for place, held in places.items() if held is connection]:
                del places[place]
                if not places:
                    del self._peers[hello.node_id]

    def _closed(self, connection: FrameConnection) -> None:
        if connection.is_ours and connection.reason is not None:
            self._complain(connection, connection.reason)
        if connection in self._guests and connection.hello is not None:
            self._let_out(connection, connection.hello)
            if self._on_closed is not None:
                self._on_closed(connection)
        else:
            self._strangers.pop(connection, None)

    def _complain(self, connection: FrameConnection, error: KVError) -> None:
        """One line per host, peer and kind of trouble, however often it comes.

        Whoever was not let in as a peer may have any name, and gets no line for each of them.
        """
        hello = connection.hello
        node = hello.node_id if hello else None
        is_peer = hello is not None and hello.role == "peer" and connection in self._guests
        known = node if is_peer else None
        now = asyncio.get_running_loop().time()
        if self._complaints.is_new((connection.remote_host, known, error.code), now):
            who = f"{connection.address} ({node})" if node else connection.address
            line = f"closed the connection from {who}: {error.message}"
            self._complaint_lines.write(now, logging.WARNING, line)

    # -- bounds -----------------------------------------------------------------------------

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_interval_s)
            now = asyncio.get_running_loop().time()
            self._close_silent_strangers(now)
            self._close_stuck(now)
            self.shed()
            self._look_for_a_file(now)
            self._complaint_lines.look(now)

    def _close_silent_strangers(self, now: float) -> None:
        timeout_s = self._limits.hello_timeout_s
        for connection, since in list(self._strangers.items()):
            if now - since > timeout_s:
                connection.close(ProtocolError(f"no hello within {timeout_s:g} s"))

    def _close_stuck(self, now: float) -> None:
        for connection in list(self._guests):
            error = connection.overdue(now)
            if isinstance(error, ProtocolError):
                connection.close(error)
            elif error is not None:
                connection.abort(error)  # it reads nothing, so it cannot be told

    def _look_for_a_file(self, now: float) -> None:
        """Say so if nobody can be let in: the loop itself closes such connections in silence."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if self._complaints.is_new(error.errno, now):
                log.warning(
                    "who connects to port %d is turned away: no file can be opened (%s); raise the "
                    "limit of open files (ulimit -n) or lower limits.connections_max",
                    self._port,
                    error.strerror,
                )

    def shed(self) -> None:
        """While all connections together hold too much, end those that hold most.

        Done now and then; whoever makes large answers asks for it more often.
        """
        held = {connection: connection.held_bytes for connection in self._guests}
        excess = sum(held.values()) - self._limits.held_bytes_max
        if excess <= 0:
            return
        for connection in sorted(held, key=held.__getitem__, reverse=True):
            if excess <= 0:
                break
            excess -= held[connection]
            connection.abort(Unavailable("the node is short of memory for its connections"))


def _makes_way(connection: FrameConnection, hello: Hello) -> bool:
    """Whether it is of an earlier process of that peer: one that has ended, or should.

    So is every process on another directory: how often that was started tells nothing.
    """
    held = connection.hello
    if held is None:
        return False
    is_other = (held.data_id, held.life) != (hello.data_id, hello.life)
    return is_other or NOT_SAID < held.begun < hello.begun


def _place(lane: int, places: Mapping[_Place, FrameConnection]) -> _Place:
    """Where a new connection of a peer belongs; whoever is there makes way.

    A lane has one place. Contacts have several, for a peer may know us by several addresses.
    """
    if lane != Lane.CONTACT:
        return lane, 0
    taken = [place for place in places if place[0] == lane]
    free = ((lane, number) for number in range(CONTACTS_PER_PEER) if (lane, number) not in taken)
    return next(free, taken[0] if taken else (lane, 0))  # the oldest stands first


def _cannot_listen(host: str, port: int, error: OSError | ValueError) -> str:
    reason: object = error
    if isinstance(error, OSError):
        in_use = "the port is in use by another process"
        reason = in_use if error.errno == errno.EADDRINUSE else error.strerror or error
    return f"cannot listen at {host}:{port}: {reason}"
