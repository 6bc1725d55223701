"""Connections on demand, to whichever member of the cluster something is said now and then.

Membership says little, but to everybody: with a thousand members nobody can keep standing lanes
to all (:mod:`kvstore.net.peers` does to those that share a Raft group). A contact is dialled by
what is first to be sent there, and closed when there has been nothing to say for a while, or
when another one needs its place. Answers come on a contact of the other side's own.

Contacts are known by address, for at first nothing else is known of a member. They have a lane
of their own, so that an address that turns out to be a standing peer's costs it no lane.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvstore.errors import KVError, Removed, Unavailable
from kvstore.ids import NodeId
from kvstore.net.backoff import Backoff
from kvstore.net.contact import Contact
from kvstore.net.limits import ContactLimits
from kvstore.net.repeats import FewLines, RepeatFilter
from kvstore.net.tasks import start_task, stop_tasks
from kvstore.net.transport import Lane
from kvstore.wire.hello import Hello, Welcome

if TYPE_CHECKING:
    import random

    from kvstore.net.connection import FrameConnection
    from kvstore.net.limits import NetLimits

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ContactCallbacks:
    """What the book asks its owner, and what it tells it. None of them may block; all may send."""

    make_hello: Callable[[Lane], Hello]
    """What to say of this node on a connection dialled now."""
    check_welcome: Callable[[NodeId | None, Welcome], None]
    """Raises a KVError if the node that answered is not the expected one. Asked with None at
    first: whether to talk to it at all, whichever it is."""
    on_unreachable: Callable[[str, NodeId | None, KVError], None]
    """What waited for that node at that address was dropped; a
    :class:`kvstore.net.dial.NobodyListens` says that its process is dead, and a
    :class:`kvstore.errors.Removed` that this node was removed: that was not logged, for everybody
    will say so."""
    on_lost: Callable[[NodeId, str], None]
    """The connection to that node at that address has ended, and not because we closed it."""


class ContactBook:
    """Implements :class:`kvstore.net.contact.ContactOwner`.

    Invariant: of at most ``contacts_max`` contacts one is known, resting, dialled or standing.
    """

    def __init__(
        self,
        callbacks: ContactCallbacks,
        *,
        limits: NetLimits,
        rng: random.Random,
        bounds: ContactLimits | None = None,
    ) -> None:
        self._callbacks = callbacks
        self._bounds = bounds = bounds or ContactLimits()
        # What is too much is dropped; a contact must neither be cut for it nor turn deaf.
        room_bytes = 2 * (bounds.waiting_bytes_max + limits.frame_bytes_max)
        self._limits = replace(limits, outbound_bytes_max=room_bytes)
        self._rng = rng
        self._contacts: OrderedDict[str, Contact] = OrderedDict()  # the longest unused first
        self._open: set[FrameConnection] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._refusals = RepeatFilter()
        self._refusal_lines = FewLines(log, "members that cannot be talked to")

    @property
    def connection_count(self) -> int:
        """How many connections are open, those about to close included."""
        return len(self._open)

    def start(self) -> None:
        """From now on something can be sent; needs a running event loop."""
        self._sweeper = start_task(self._sweep_forever(), "sweep of contacts")

    async def close(self, deadline_s: float = 1.0) -> None:
        """Say goodbye everywhere and return when nothing is open and no task is left.

        What still waits for a dial is dropped: see :meth:`drain`. Connections that do not end
        within ``deadline_s`` are cut.
        """
        sweeper, self._sweeper = self._sweeper, None
        tasks = self._dials() if sweeper is None else [sweeper, *self._dials()]
        for contact in self._contacts.values():
            contact.release()
        self._contacts.clear()
        try:
            await stop_tasks(*tasks)
            await self._wait_closed(deadline_s)
        finally:
            for connection in tuple(self._open):
                connection.abort()
        await self._wait_closed()

    async def drain(self, deadline_s: float) -> None:
        """Return when no dial is under way, so that nothing waits, or at the deadline."""
        dials = self._dials()
        if dials:
            await asyncio.wait(dials, timeout=deadline_s)

    def send(self, address: str, frame: bytes, expected: NodeId | None) -> bool:
        """Queue an encoded frame for whoever listens at ``address``.

        Args:
            address: ``host:port``; dialled if nothing is connected.
            frame: At most ``frame_bytes_max``.
            expected: The node it is for; None for any.

        Returns:
            False when it was dropped: too soon after a failure, too much waits, too many
            contacts, not started or closed. True promises nothing, as in
            :class:`kvstore.net.transport.PeerTransport`.
        """
        if self._sweeper is None or len(frame) > self._limits.frame_bytes_max:
            return False
        contact = self._contacts.get(address)
        if contact is None:
            if not self._make_room():
                return False
            contact = self._contacts[address] = self._new_contact(address)
        else:
            self._contacts.move_to_end(address)
        return contact.send(frame, expected)

    def forgive(self, address: str) -> None:
        """Whoever listens at ``address`` was heard: it may be dialled soon, if it has failed.

        Otherwise a member that comes back would wait for its first answer as long as a dead
        one is left alone.
        """
        contact = self._contacts.get(address)
        if contact is not None:
            contact.forgive()

    def _new_contact(self, address: str) -> Contact:
        bounds = self._bounds
        return Contact(
            address,
            self,
            limits=self._limits,
            bounds=bounds,
            backoff=Backoff(bounds.backoff_base_s, bounds.backoff_cap_s, self._rng),
        )

    def _dials(self) -> list[asyncio.Task[None]]:
        contacts = self._contacts.values()
        return [contact.dialling for contact in contacts if contact.dialling is not None]

    async def _wait_closed(self, timeout_s: float | None = None) -> None:
        closing = [connection.closed for connection in self._open]
        if closing:
            await asyncio.wait(closing, timeout=timeout_s)

    # -- bounds -------------------------------------------------------------------------------

    def _make_room(self) -> bool:
        """Whether there is a place for one more contact, once the longest idle one has gone."""
        if len(self._contacts) < self._bounds.contacts_max:
            return True
        idle = next((contact for contact in self._contacts.values() if contact.is_idle), None)
        if idle is None:
            if self._refusals.is_new("crowded", asyncio.get_running_loop().time()):
                log.warning("all %d contacts are in use at once", len(self._contacts))
            return False
        self._release(idle)
        return True

    def _release(self, contact: Contact) -> None:
        del self._contacts[contact.address]
        contact.release()

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_interval_s)
            now = asyncio.get_running_loop().time()
            self._refusal_lines.look(now)
            for contact in list(self._contacts.values()):
                if contact.is_idle and now - contact.used_at >= self._bounds.idle_s:
                    self._release(contact)
            for connection in tuple(self._open):
                error = connection.overdue(now)
                if error is not None:
                    connection.abort(error)

    # -- told and asked by the contacts -------------------------------------------------------

    def make_hello(self) -> Hello:
        """As :class:`kvstore.net.contact.ContactOwner` has it, like all that follow."""
        return self._callbacks.make_hello(Lane.CONTACT)

    def check_welcome(self, expected: NodeId | None, welcome: Welcome) -> None:
        """Whether it is the expected node."""
        self._callbacks.check_welcome(expected, welcome)

    def opened(self, connection: FrameConnection) -> None:
        """One more to be closed in the end."""
        self._open.add(connection)

    def closed(self, connection: FrameConnection) -> None:
        """One less."""
        self._open.discard(connection)

    def unreachable(self, address: str, expected: NodeId | None, error: KVError) -> None:
        """Tell the owner, and whoever reads the log if somebody is to blame."""
        if isinstance(error, Unavailable):
            log.debug("cannot reach %s: %s", expected or "anybody", error)
        else:
            self.turned_down(address, expected, error)
        self._callbacks.on_unreachable(address, expected, error)

    def turned_down(self, address: str, expected: NodeId | None, error: KVError) -> None:
        """One line per address and kind of trouble, however often it comes."""
        if isinstance(error, Removed):
            return
        now = asyncio.get_running_loop().time()
        if not self._refusals.is_new((address, error.code), now):
            return
        if expected is None:
            line = f"nobody of this cluster answers at {address}: {error}"
        else:
            line = f"cannot talk to {expected} at {address}: {error}"
        self._refusal_lines.write(now, logging.WARNING, line)

    def lost(self, node: NodeId, address: str) -> None:
        """Tell the owner."""
        log.debug("the connection to %s at %s is lost", node, address)
        self._callbacks.on_lost(node, address)
