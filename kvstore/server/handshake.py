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
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kvstore import __version__
from kvstore.errors import ClockAhead, Refused, Unavailable
from kvstore.hlc import HybridClock, revision_at
from kvstore.storage.identity_file import Pin
from kvstore.swim.members import MEMBERS_MAX
from kvstore.wire.hello import Hello, Welcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvstore.config import NodeConfig
    from kvstore.ids import NodeId
    from kvstore.net.connection import FrameConnection
    from kvstore.net.transport import Lane

log = logging.getLogger(__name__)

SOFTWARE = f"kvstore {__version__}"


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
        pins: Callable[[], Mapping[NodeId, Pin]],
        remember: Callable[[NodeId, Pin], None],
        wall_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._own = own
        self._pins = pins
        self._coming: dict[NodeId, Pin] = {}
        self._remember = remember
        self._wall_ms = wall_ms
        self.is_removed: Callable[[NodeId], bool] = lambda node: False
        """Whether a node was expelled for good; set by whoever knows."""
        self._clock = HybridClock(ahead_ms_max=config.limits.clock_ahead_ms_max)

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
        )

    def welcome(self, _: FrameConnection, hello: Hello) -> Welcome:
        """Accept whoever said ``hello``.

        Raises:
            Refused: another cluster, no member of this one, or a member with a lost disk.
            Unavailable: a repaired member that is not remembered yet; it may come again.
            ClockAhead: a peer's clock runs too far ahead of ours.
        """
        ours = self._config.cluster.id
        if hello.cluster_id is not None and hello.cluster_id != ours:
            raise Refused(f"this is cluster {ours!r}, not {hello.cluster_id!r}")
        if hello.role == "peer":
            assert hello.node_id is not None
            assert hello.data_id is not None
            self._check_peer(hello.node_id, Pin(hello.data_id, hello.life), hello.wall_ms)
        wall_ms = self._wall_ms()
        return Welcome(
            cluster_id=ours,
            node_id=self._config.node_id,
            data_id=self._own.data_id,
            wall_ms=wall_ms,
            revision_now=revision_at(wall_ms),
            software=SOFTWARE,
            life=self._own.life,
        )

    def check_welcome(self, expected: NodeId | None, welcome: Welcome) -> None:
        """Accept whoever answered at the address of ``expected``, if anybody was.

        Raises:
            KVError: as :meth:`welcome`.
        """
        ours = self._config.cluster.id
        if welcome.cluster_id != ours:
            raise Refused(f"the node at its address is of cluster {welcome.cluster_id!r}")
        if expected is not None and welcome.node_id != expected:
            raise Refused(f"the node at its address is {welcome.node_id}")
        self._check_peer(welcome.node_id, Pin(welcome.data_id, welcome.life), welcome.wall_ms)

    def _check_peer(self, node: NodeId, pin: Pin, wall_ms: int) -> None:
        if node == self._config.node_id:
            raise Refused(f"two nodes are called {node}")
        if self.is_removed(node):
            raise Refused(f"{node} was removed from this cluster; it cannot come back by this name")
        remembered = self._pins().get(node)
        newest = self._newest(node, remembered)
        if newest is None and len(self._pins()) + len(self._coming) >= MEMBERS_MAX:
            raise Refused(f"this node knows {MEMBERS_MAX} others already")
        if newest is not None and pin != newest:
            _check_later(node, pin, newest)
        try:
            self._clock.check_peer(wall_ms, self._wall_ms())
        except ClockAhead as error:
            raise ClockAhead(f"{node}'s {error.message}") from None
        if pin != newest:
            self._coming[node] = pin
            self._remember(node, pin)
        if remembered is not None and pin != remembered:
            raise Unavailable(
                f"{node} was repaired: its new data directory is being remembered, come again"
            )

    def _newest(self, node: NodeId, remembered: Pin | None) -> Pin | None:
        """The directory of ``node`` to hold it to, whether on the disk yet or not."""
        coming = self._coming.get(node)
        if coming is None or (remembered is not None and remembered.life > coming.life):
            return remembered
        return coming


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
