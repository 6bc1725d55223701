"""A node's part in the membership: the core's driver, and what it needs around it.

Messages travel the control lane of peers that share groups with this node, and connections made
on demand to all others (:mod:`kvstore.net.contacts`). What the node must not forget is kept in
a file. A lost connection is a hint to look at once, never a verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from typing import TYPE_CHECKING, Final, Protocol

from kvstore import __version__
from kvstore.errors import ProtocolError, Removed, Unavailable
from kvstore.net.contacts import ContactBook, ContactCallbacks
from kvstore.net.dial import NobodyListens
from kvstore.net.repeats import RepeatFilter
from kvstore.net.transport import Lane
from kvstore.server.event_log import EventLog
from kvstore.server.map_exchange import MapExchange
from kvstore.server.swim_driver import SwimDriver
from kvstore.storage import membership_file
from kvstore.storage.files import OsFiles
from kvstore.storage.membership_file import MEMBERSHIP_FILE, Remembered
from kvstore.swim.claims import Metadata, State
from kvstore.swim.core import SwimCore
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import (
    EVENTS_MAX,
    EventsReply,
    encode_events_reply,
    encode_members_reply,
)
from kvstore.wire.swim_codec import decode_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.config import NodeConfig
    from kvstore.errors import KVError
    from kvstore.ids import NodeId
    from kvstore.net.limits import ContactLimits, NetLimits
    from kvstore.net.peers import PeerPool
    from kvstore.server.checksums import Asker
    from kvstore.server.handshake import Handshake
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.swim.ready import MemberStatus
    from kvstore.wire.frames import Frame
    from kvstore.wire.membership import EventsRequest

log = logging.getLogger(__name__)

SAVE_INTERVAL_S: Final = 1.0
STREAM_BITS: Final = 63
VITALS_INTERVAL_S: Final = 5.0
INCARNATIONS_RESERVED: Final = 8
"""On the disk stands an incarnation that this node is yet to reach: so it can refute at once, and
would still begin in a later one after a crash. Only a proper stop writes down the true one."""
SEED_PATIENCE_S: Final = 2.0
"""For how long a seed may not answer before that is said."""
DRAIN_S_MAX: Final = 1.0
LEAVE_S_MAX: Final = 0.5
"""How long the goodbye may take to get around; whoever misses it hears of it from others."""


def make_contacts(
    handshake: Handshake,
    *,
    limits: NetLimits,
    bounds: ContactLimits | None = None,
    rng: random.Random,
    hint: Hint,
    on_refused: Callable[[KVError, str], None],
) -> ContactBook:
    """Connections on demand, whose troubles are hints.

    ``on_refused`` is told of those that say this node was removed, and at which address.
    """
    silent = RepeatFilter()
    silent_since: dict[str, float] = {}

    def unreachable(address: str, node: NodeId | None, error: KVError) -> None:
        if isinstance(error, Removed):
            on_refused(error, address)
        elif node is not None:
            hint(node, is_gone=isinstance(error, NobodyListens))
        # One that answers, but is not to be talked to, was told of by the book itself.
        elif isinstance(error, Unavailable) and is_silent(address):
            log.warning("the seed %s does not answer, and is asked again: %s", address, error)

    def is_silent(address: str) -> bool:
        """Whether that is worth a word: nodes that begin together need not all be there yet."""
        now = asyncio.get_running_loop().time()
        is_overdue = now - silent_since.setdefault(address, now) >= SEED_PATIENCE_S
        return is_overdue and silent.is_new(address, now)

    callbacks = ContactCallbacks(
        make_hello=handshake.make_hello,
        check_welcome=handshake.check_welcome,
        on_unreachable=unreachable,
        on_lost=lambda node, _: hint(node, is_gone=False),
    )
    return ContactBook(callbacks, limits=limits, bounds=bounds, rng=rng)


class Hint(Protocol):
    """A connection to a node was lost, or refused; see :meth:`SwimDriver.hint`."""

    def __call__(self, node: NodeId, *, is_gone: bool) -> None:
        """Look whether it lives."""
        ...


class MemberCouriers:
    """Implements :class:`kvstore.server.swim_driver.Couriers`."""

    def __init__(self, pool: PeerPool, contacts: ContactBook) -> None:
        """Whoever is a peer of ``pool`` when something is to be said is spoken to by it."""
        self._pool = pool
        self._contacts = contacts

    def send(self, node: NodeId | None, address: str, frame: bytes) -> None:
        """By the control lane, or, where none stands, by a connection of its own.

        That is so with peers too while their lane is being dialled, or closes because they are
        peers no more: to lose the first probe of a node that has just begun would make it
        suspect them.
        """
        peer = self._peer_at(address) if node is None else node
        is_peer = peer is not None and self._pool.peers.get(peer) == address
        if peer is None or not is_peer or not self._pool.send(peer, Lane.CONTROL, frame):
            self._contacts.send(address, frame, node)

    def _peer_at(self, address: str) -> NodeId | None:
        """The peer that listens there, if one does; asked of seeds only, so a search will do."""
        return next((node for node, at in self._pool.peers.items() if at == address), None)

    def heard(self, address: str) -> None:
        """Whoever listens at ``address`` has spoken: it may be dialled again at once."""
        self._contacts.forgive(address)

    async def drain(self) -> None:
        """Return when what was sent is on its way, or soon after."""
        await self._contacts.drain(DRAIN_S_MAX)


class Membership:
    """Invariant: a node that was removed says nothing more, to members or of them.

    It learns it by the shard map, or from members that it dials; then ``on_expelled`` was called.
    """

    def __init__(
        self,
        config: NodeConfig,
        remembered: Remembered,
        couriers: MemberCouriers,
        shard_map: ShardMap | None,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        cpu_s: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Begin in the next incarnation after the one that is ``remembered``.

        Args:
            config: The node's.
            remembered: What the membership file says.
            couriers: Takes frames to members.
            shard_map: The newest that is known; None if the node joins and has none yet.
            clock: Steady seconds.
            wall_ms: The wall clock, milliseconds since the Unix epoch.
            cpu_s: Processor seconds that this process has used.
            rng: For the core.
        """
        self._own = config.node_id
        self._cluster_id = config.cluster.id
        self._path = config.data_dir / MEMBERSHIP_FILE
        self._couriers = couriers
        self._clock = clock
        self._wall_ms = wall_ms
        self._cpu_s = cpu_s
        address = config.address
        passed_s = max(0.0, (wall_ms() - remembered.saved_ms) / 1000)
        core = SwimCore(
            config.node_id,
            Metadata(address.address, address.zone, address.weight, __version__),
            incarnation=remembered.incarnation + 1,
            seeds=config.seeds,
            known=[(claim, age_s + passed_s) for claim, age_s in remembered.members],
            config=config.swim,
            rng=rng,
            now=clock(),
        )
        self.events = EventLog(self._events_reply, rng.getrandbits(STREAM_BITS))
        self.driver = SwimDriver(
            core,
            couriers,
            self.events,
            clock=clock,
            wall_ms=wall_ms,
            on_changed=self._changed,
        )
        self.on_expelled: Callable[[], None] = lambda: None
        """Called once; to be set by whoever has something to do then."""
        self.is_expelled = False
        """This node was removed from its cluster, for good."""
        self._is_changed = True
        self._saved_incarnation = remembered.incarnation
        self._cannot_save = RepeatFilter()
        self._writing = threading.Lock()
        self._measured_at, self._measured_cpu_s = clock(), cpu_s()
        self._load = 0.0
        self._seeds = tuple(seed for seed in config.seeds if seed != address.address)
        self.maps = self._exchange(shard_map, random.Random(rng.getrandbits(STREAM_BITS)))
        """The shard map that this node goes by."""
        self._tell_vitals()

    def _exchange(self, shard_map: ShardMap | None, rng: random.Random) -> MapExchange:
        return MapExchange(
            self._own,
            shard_map,
            send=self._send,
            tell_version=self._tell_vitals,
            clock=self._clock,
            seeds=self._seeds,
            rng=rng,
        )

    @property
    def shard_map(self) -> ShardMap | None:
        """The newest that is known; None while there is none."""
        return self.maps.shard_map

    def members(self) -> list[MemberStatus]:
        """The whole view, this node first."""
        return self.driver.core.members(self._clock())

    def members_reply(self) -> bytes:
        """The answer to a MEMBERS request."""
        return encode_members_reply(self._own, self.members())

    def ask_events(self, request: EventsRequest, asker: Asker) -> None:
        """Answer with what has happened since; see :class:`EventLog`."""
        wait_s = request.wait_ms / 1000
        self.events.ask(request.stream, request.after, wait_s, self._clock(), asker)

    def _events_reply(self, after: int) -> bytes:
        log_ = self.events
        events = log_.after(after)[:EVENTS_MAX]
        last = events[-1].number if events else log_.last
        return encode_events_reply(EventsReply(self._own, last, log_.oldest, events, log_.stream))

    def is_removed(self, node: NodeId) -> bool:
        """Whether ``node`` was expelled for good."""
        member = self.driver.core.member(node, self._clock())
        return member is not None and member.state is State.REMOVED

    def refused(self, error: KVError, address: str | None = None) -> None:
        """Another node has turned this one away: if because it was removed, it falls silent.

        Args:
            error: What it has said.
            address: Where it was dialled; None for a standing peer. Who listens where neither
                our configuration nor our shard map says that a member does may be anybody.
        """
        if isinstance(error, Removed) and (address is None or self._is_of_member(address)):
            self.driver.remove(self._own)

    def _is_of_member(self, address: str) -> bool:
        members = () if self.shard_map is None else self.shard_map.nodes
        return address in self._seeds or any(node.address == address for node in members)

    def is_gone(self, node: NodeId) -> bool:
        """Whether ``node`` is dead or has left."""
        member = self.driver.core.member(node, self._clock())
        return member is not None and not member.state.is_active

    # -- what comes in ------------------------------------------------------------------------

    def receive(self, node: NodeId, frame: Frame) -> None:
        """A frame of the peer ``node``.

        Raises:
            ProtocolError: malformed, or said in another's name.
        """
        if self.is_expelled:
            return
        if frame.kind == Kind.SWIM:
            message = decode_message(frame.body)
            sender = message.sender
            if sender.node != node:
                raise ProtocolError(f"swim: {node} speaks in the name of {sender.node}")
            self._couriers.heard(sender.address)
            self.driver.receive(message)
            self.maps.heard(node, sender.vitals.map_version, address=sender.address)
        else:
            self.maps.receive(node, frame)

    def _send(self, node: NodeId | None, frame: bytes, *, address: str | None = None) -> None:
        """To a member whose address is known."""
        at = self._address_of(node) if address is None and node is not None else address
        if at is not None:
            self._couriers.send(node, at, frame)

    def _address_of(self, node: NodeId) -> str | None:
        member = self.driver.core.member(node, self._clock())
        return None if member is None or member.metadata is None else member.metadata.address

    def announce(self) -> None:
        """Tell everybody that there is a newer shard map."""
        self.maps.announce(m.node for m in self.members() if m.state.is_active)

    def go_by(self, shard_map: ShardMap) -> None:
        """Whoever was removed from the cluster is no member any more, and few others are kept."""
        self.driver.core.expect(node.id for node in shard_map.nodes)
        for node in shard_map.removed:
            if not self.is_removed(node):
                self.driver.core.remove(node, self._clock())

    # -- what is done now and then --------------------------------------------------------------

    async def keep(self) -> None:
        """Save what has changed, and see how busy this node is, until cancelled."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            self._measure()
            await self.save()

    def _measure(self) -> None:
        now, cpu_s = self._clock(), self._cpu_s()
        if now - self._measured_at < VITALS_INTERVAL_S:
            return
        load = round((cpu_s - self._measured_cpu_s) / (now - self._measured_at), 2)
        self._measured_at, self._measured_cpu_s = now, cpu_s
        if load != self._load:
            self._load = load
            self._tell_vitals()

    def _tell_vitals(self) -> None:
        self.driver.core.set_vitals(self.maps.version, self._load)

    def _changed(self) -> None:
        self._is_changed = True
        if not self.is_expelled and self.is_removed(self._own):
            self.is_expelled = True
            log.warning(
                "%s was removed from cluster %s for good and takes no part any more; to use this "
                "machine again, start a node here with another name and an empty data directory",
                self._own,
                self._cluster_id,
            )
            self.on_expelled()

    async def save(self) -> None:
        """Write the file if what it says is no longer so."""
        # A new incarnation is an event to others, and not always to ourselves.
        reserve = self._saved_incarnation - self.driver.core.incarnation
        if self._is_changed or reserve < INCARNATIONS_RESERVED // 2:
            await self._save(self._remember(INCARNATIONS_RESERVED))

    async def close(self) -> None:
        """Write the file for the last time; nothing may be said after that."""
        await self._save(self._remember(0))

    def _remember(self, reserve: int) -> Remembered:
        core = self.driver.core
        reached = core.incarnation + reserve
        return Remembered(reached, self._wall_ms(), tuple(core.known(self._clock())))

    async def _save(self, now: Remembered) -> None:
        self._is_changed = False
        try:
            await asyncio.to_thread(self._write, now)
        except OSError as error:
            self._is_changed = True
            if self._cannot_save.is_new(error.errno, self._clock()):
                log.warning("%s could not be written, will be tried again: %s", self._path, error)
        else:
            self._saved_incarnation = now.incarnation

    def _write(self, now: Remembered) -> None:
        with self._writing:  # Whoever was cancelled may still be at it.
            membership_file.save(OsFiles(), self._path, now)

    async def leave(self) -> None:
        """Say goodbye to the others."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S_MAX):
                await self.driver.leave()
        await self._couriers.drain()
