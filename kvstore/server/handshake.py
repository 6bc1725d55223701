"""Who may talk to this node: the checks behind every hello and welcome.

A data directory has a random id. The first time two nodes meet, each remembers the other's;
a node that later comes with another one has lost its disk (or is an impostor), and with it
the votes and entries it vouched for. Letting it vote again could elect a leader without an
acknowledged write, so it is turned away until an operator repairs it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kvstore import __version__
from kvstore.errors import ClockAhead, Refused
from kvstore.hlc import HybridClock, revision_at
from kvstore.wire.hello import Hello, Welcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.config import NodeConfig
    from kvstore.ids import NodeId
    from kvstore.net.connection import FrameConnection
    from kvstore.net.transport import Lane

log = logging.getLogger(__name__)

SOFTWARE = f"kvstore {__version__}"


class Handshake:
    """Decides about every connection, incoming and outgoing.

    ``remember`` is called once for each peer that is met for the first time, with its data
    id, and makes that durable.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        data_id: int,
        known_data_ids: dict[NodeId, int],
        remember: Callable[[NodeId, int], None],
        wall_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._data_id = data_id
        self._known_data_ids = known_data_ids
        self._remember = remember
        self._wall_ms = wall_ms
        self._clock = HybridClock(ahead_ms_max=config.limits.clock_ahead_ms_max)

    def make_hello(self, lane: Lane) -> Hello:
        """What this node says when it dials a peer."""
        return Hello(
            role="peer",
            software=SOFTWARE,
            wall_ms=self._wall_ms(),
            cluster_id=self._config.cluster.id,
            node_id=self._config.node_id,
            lane=lane,
            data_id=self._data_id,
        )

    def welcome(self, _: FrameConnection, hello: Hello) -> Welcome:
        """Accept whoever said ``hello``.

        Raises:
            Refused: another cluster, no member of this one, or a member with a lost disk.
            ClockAhead: a peer's clock runs too far ahead of ours.
        """
        ours = self._config.cluster.id
        if hello.cluster_id is not None and hello.cluster_id != ours:
            raise Refused(f"this is cluster {ours!r}, not {hello.cluster_id!r}")
        if hello.role == "peer":
            assert hello.node_id is not None
            assert hello.data_id is not None
            self._check_peer(hello.node_id, hello.data_id, hello.wall_ms)
        wall_ms = self._wall_ms()
        return Welcome(
            cluster_id=ours,
            node_id=self._config.node_id,
            data_id=self._data_id,
            wall_ms=wall_ms,
            revision_now=revision_at(wall_ms),
            software=SOFTWARE,
        )

    def check_welcome(self, expected: NodeId, welcome: Welcome) -> None:
        """Accept whoever answered at the address of ``expected``; raises as :meth:`welcome`."""
        ours = self._config.cluster.id
        if welcome.cluster_id != ours:
            raise Refused(f"the node at its address is of cluster {welcome.cluster_id!r}")
        if welcome.node_id != expected:
            raise Refused(f"the node at its address is {welcome.node_id}")
        self._check_peer(welcome.node_id, welcome.data_id, welcome.wall_ms)

    def _check_peer(self, node: NodeId, data_id: int, wall_ms: int) -> None:
        if node == self._config.node_id:
            raise Refused(f"two nodes are called {node}")
        if all(member.id != node for member in self._config.cluster.nodes):
            raise Refused(f"{node} is no member of this cluster")
        known = self._known_data_ids.get(node)
        if known is not None and known != data_id:
            raise Refused(
                f"{node} comes with another data directory than before: its old one held votes "
                "and entries that the cluster relies on; restore it"
            )
        try:
            self._clock.check_peer(wall_ms, self._wall_ms())
        except ClockAhead as error:
            raise ClockAhead(f"{node}'s {error.message}") from None
        if known is None:
            self._known_data_ids[node] = data_id
            self._remember(node, data_id)
