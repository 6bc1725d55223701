"""Who may talk to this node: the checks behind every hello and welcome.

A data directory has a random id. The first time two nodes meet, each remembers the other's;
a node that later comes with another one has lost its disk (or is an impostor), and with it
the votes and entries it vouched for. Letting it vote again could elect a leader without an
acknowledged write, so it is turned away until an operator repairs it (``kv repair``).

A repaired node has a directory of a *later life*, and takes part under replica ids of that
life, which were never used before. This is why it is safe to let it in:

* Every message names the replicas that it is from and for, and whoever gets one for another
  replica drops it. So the two lives never mix: nothing that the new one says can be taken for
  a vote or an acknowledgement of the old one, and it holds none of the old one's promises.
* What the old life promised stays in the count until the group commits a configuration
  without it. It is silent meanwhile, as a dead voter is.
* The new life counts for nothing until a configuration makes it a voter, which a leader
  proposes once it has the log (:mod:`kvstore.server.rejoin`).

What would break this is two directories of *one* life, for they would share their ids. Hence
a later life is let in only once it is remembered durably; until then the node is told to come
again. From then on the earlier life is turned away, as is any other directory of that life.
A repair keeps what the node remembers of its peers; only if that is lost as well does it take
them, like a new node, for what they are when they first meet.

All this is for *members*: nodes that may hold replicas, and so may have vouched for something.
Who they are changes. A node that has only joined holds nothing. It is held to its directory
while it is there, but only in memory; when it is gone, another node may have its name. When it
becomes a member, what it was met with last is remembered durably: it may have been given replicas
before we heard of it, so whoever comes with another directory from then on has lost some. And
once it is to be remembered it is held to that for good, also when it is no member any more, or
when we do not know yet that it is one, as before the shard map is read: should it be a member
again, no second directory of one life may have come by its name.

Whoever knows the id of a directory can say hello as its node. So who comes is told it only if it
may hold replicas; clients and strangers are not. A node that has only joined goes by the names of
those that it dials until they have dialled it. Whomever a node itself dials it does tell, for that
is how a newcomer learns it: against one that listens within the network this is no protection.

Two processes on *copies* of one directory have everything in common but their start, which the
directory counts. Of these the later is let in: a restarted node must be, and which of two copies
is the right one nobody here can know.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from kvstore import __version__
from kvstore.errors import ClockAhead, ProtocolError, Refused, Removed, Unavailable
from kvstore.hlc import HybridClock, revision_at
from kvstore.storage.identity_file import Pin
from kvstore.swim.members import MEMBERS_MAX
from kvstore.wire.hello import NO_DATA_ID, NOT_SAID, Hello, Welcome

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from kvstore.config import NodeConfig
    from kvstore.ids import NodeId
    from kvstore.net.connection import FrameConnection
    from kvstore.net.transport import Lane
    from kvstore.wire.hello import Begun

log = logging.getLogger(__name__)

SOFTWARE = f"kvstore {__version__}"
STARTS_JUMP_MAX: Final = 1 << 20
"""Nobody is started so often between two meetings."""
T = TypeVar("T")


class Handshake:
    """Decides about every connection, incoming and outgoing.

    ``pins`` gives the peers' directories that are remembered durably. ``remember`` is called
    once for each that shall be, and makes it so; meanwhile it is kept here.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        own: Pin,
        begun: Begun,
        pins: Callable[[], Mapping[NodeId, Pin]],
        remember: Callable[[NodeId, Pin], None],
        wall_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._own = own
        self._begun = begun
        self._members = frozenset(node.id for node in config.cluster.nodes)
        self._pins = pins
        self._coming: dict[NodeId, Pin] = {}
        """Directories that are being remembered; some already are."""
        self._joined: OrderedDict[NodeId, Pin] = OrderedDict()
        """The directories of nodes that were never to be remembered, and so hold nothing: the
        last met last."""
        self._latest: OrderedDict[NodeId, tuple[int, Begun]] = OrderedDict()
        """Of each node the latest process that was met, by life."""
        self._remember = remember
        self._wall_ms = wall_ms
        self.is_removed: Callable[[NodeId], bool] = lambda node: False
        """Whether a node was expelled for good; set by whoever knows, as is ``is_gone``."""
        self.is_gone: Callable[[NodeId], bool] = lambda node: False
        """Whether a node takes no part any more: it is dead, or has left."""
        self._clock = HybridClock(ahead_ms_max=config.limits.clock_ahead_ms_max)

    def set_members(self, nodes: Collection[NodeId]) -> None:
        """From now on these may hold replicas; at first the founders do.

        To be told before a node can have a vote that counts here.
        """
        before, self._members = self._members, frozenset(nodes)
        for node in self._members - before:
            met = self._joined.pop(node, None)
            if met is not None:
                self._hold_to(node, met)

    def is_member(self, node: NodeId) -> bool:
        """Whether ``node`` may hold replicas."""
        return node in self._members

    def life_of(self, node: NodeId) -> int | None:
        """The life of the directory of ``node`` that is remembered durably, if one is."""
        pin = self._pins().get(node)
        return None if pin is None else pin.life

    def make_hello(self, lane: Lane) -> Hello:
        """What this node says when it dials a peer."""
        return Hello(
            role="peer",
            software=SOFTWARE,
            wall_ms=self._wall_ms(),
            cluster_id=self._config.cluster.id,
            node_id=self._config.node_id,
            lane=lane,
            data_id=self._own.data_id,
            life=self._own.life,
            begun=self._begun,
        )

    def welcome(self, _: FrameConnection, hello: Hello) -> Welcome:
        """Accept whoever said ``hello``.

        Raises:
            Removed: it was expelled for good.
            Refused: another cluster, no member of this one, or a member with a lost disk.
            Unavailable: a repaired member that is not remembered yet; it may come again.
            ClockAhead: a peer's clock runs, or ran when it began, too far ahead of ours.
            ProtocolError: it cannot have been started so often.
        """
        ours = self._config.cluster.id
        if hello.cluster_id is not None and hello.cluster_id != ours:
            raise Refused(f"this is cluster {ours!r}, not {hello.cluster_id!r}")
        if hello.role == "peer":
            assert hello.node_id is not None
            assert hello.data_id is not None
            pin = Pin(hello.data_id, hello.life)
            if self.is_removed(hello.node_id):
                raise Removed(
                    f"{hello.node_id} was removed from this cluster and cannot come back by this "
                    "name: start it with another name and an empty data directory"
                )
            self._check_peer(hello.node_id, pin, hello.begun, hello.wall_ms)
        wall_ms = self._wall_ms()
        welcome = Welcome(
            cluster_id=ours,
            node_id=self._config.node_id,
            data_id=NO_DATA_ID,
            wall_ms=wall_ms,
            revision_now=revision_at(wall_ms),
            software=SOFTWARE,
        )
        if hello.node_id is None or hello.role != "peer" or not self._is_held(hello.node_id):
            return welcome
        own = self._own
        return replace(welcome, data_id=own.data_id, life=own.life, begun=self._begun)

    def check_welcome(self, expected: NodeId | None, welcome: Welcome) -> None:
        """Accept whoever answered at the address of ``expected``, if anybody was.

        Raises:
            KVError: as :meth:`welcome`; but Removed is always said of the one that dialled.
        """
        ours = self._config.cluster.id
        if welcome.cluster_id != ours:
            raise Refused(f"the node at its address is of cluster {welcome.cluster_id!r}")
        if expected is not None and welcome.node_id != expected:
            raise Refused(f"the node at its address is {welcome.node_id}")
        if self.is_removed(welcome.node_id):
            raise Refused(f"{welcome.node_id} was removed from this cluster")
        pin = Pin(welcome.data_id, welcome.life)
        if welcome.data_id != NO_DATA_ID:
            self._check_peer(welcome.node_id, pin, welcome.begun, welcome.wall_ms)
        elif welcome.node_id == self._config.node_id:
            raise Refused(f"two nodes are called {welcome.node_id}")
        else:
            self._check_clock(welcome.node_id, welcome.wall_ms)

    def _check_peer(self, node: NodeId, pin: Pin, begun: Begun, wall_ms: int) -> None:
        if node == self._config.node_id:
            is_us = (pin, begun) == (self._own, self._begun)
            raise Refused("that is this node itself" if is_us else f"two nodes are called {node}")
        known = self._known(node)
        if known is not None and pin != known:
            self._check_directory(node, pin, known)
        self._check_process(node, pin, begun)
        self._check_clock(node, wall_ms)
        if begun != NOT_SAID:
            _keep(self._latest, node, (pin.life, begun))
        if not self._is_held(node):
            _keep(self._joined, node, pin)
            return
        if pin != known:
            self._hold_to(node, pin)
        remembered = self._pins().get(node)
        if remembered is not None and pin != remembered:
            raise Unavailable(
                f"{node} was repaired: its new data directory is being remembered, come again"
            )

    def _check_clock(self, node: NodeId, wall_ms: int) -> None:
        try:
            self._clock.check_peer(wall_ms, self._wall_ms())
        except ClockAhead as error:
            raise ClockAhead(f"{node}'s {error.message}") from None

    def _is_held(self, node: NodeId) -> bool:
        """Whether ``node`` is held to its directory also when it is gone."""
        return node in self._members or node in self._coming or node in self._pins()

    def _hold_to(self, node: NodeId, pin: Pin) -> None:
        self._coming[node] = pin
        self._remember(node, pin)

    def _check_directory(self, node: NodeId, pin: Pin, known: Pin) -> None:
        """It comes with another one than before."""
        if self._is_held(node):
            _check_later(node, pin, known)
        elif self.is_gone(node):
            self._latest.pop(node, None)
        else:
            raise Refused(f"two nodes are called {node}: the other one is still there")

    def _check_process(self, node: NodeId, pin: Pin, begun: Begun) -> None:
        latest = self._latest.get(node)
        self._check_begun(node, begun, 0 if latest is None else latest[1].starts)
        if latest is not None and begun != NOT_SAID and (pin.life, begun) < latest:
            raise Refused(
                f"another process that calls itself {node} began later, on the same data or a "
                "copy of it; only one may run: stop this one, or that one and restart this"
            )

    def _check_begun(self, node: NodeId, begun: Begun, starts: int) -> None:
        """Whether it can have begun so: whoever is believed shuts out all that began earlier."""
        if begun.starts > starts + STARTS_JUMP_MAX:
            raise ProtocolError(f"{node} cannot have been started {begun.starts} times")
        ahead_ms = begun.wall_ms - self._wall_ms()
        if ahead_ms > self._config.limits.clock_ahead_ms_max:
            raise ClockAhead(
                f"{node} says that it was started {ahead_ms} ms from now: restart it once its "
                "clock is right"
            )

    def _known(self, node: NodeId) -> Pin | None:
        """The directory of ``node`` to hold it to, whether on the disk yet or not."""
        if not self._is_held(node):
            return self._joined.get(node)
        remembered, coming = self._pins().get(node), self._coming.get(node)
        if coming is None or (remembered is not None and remembered.life > coming.life):
            return remembered
        return coming


def _keep(table: OrderedDict[NodeId, T], node: NodeId, value: T) -> None:
    """Keep it as the newest; whoever was not met for longest is forgotten for it."""
    table[node] = value
    table.move_to_end(node)
    if len(table) > MEMBERS_MAX:
        table.popitem(last=False)


def _check_later(node: NodeId, pin: Pin, known: Pin) -> None:
    if pin.life < known.life:
        raise Refused(
            f"{node} was repaired and lives on in another data directory (life {known.life}); "
            f"this one, of life {pin.life}, was given up for good: do not start it; if the other "
            "is lost too, repair the node again: kv repair --config FILE, on its machine"
        )
    if pin.life == known.life:
        raise Refused(
            f"{node} comes with another data directory than before: its old one held votes "
            "and entries that the cluster relies on; restore that one, or let the others give "
            "its data again: kv repair --config FILE, on its machine"
        )
