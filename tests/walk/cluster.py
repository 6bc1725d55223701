"""A cluster of real processes that grows: founders, and nodes that join them one by one."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from chaos.cluster import Node, free_ports, wait_for
from chaos.proxy import Link
from chaos.retries import Retries
from chaos.shim import Shim, build
from kvstore.cli.endpoints import Endpoints
from kvstore.cli.ordering import give
from kvstore.cli.survey import survey_endpoints
from kvstore.ids import NodeId
from kvstore.wire.admin import Action, Order

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.cli.survey import Survey

CLUSTER = "walk"
SHARDS = 4
FOUNDERS = 3
NODES_MAX = 10
"""That ever are, in one cluster."""
WAIT_S = 30.0

_SETTINGS = """
[wal]
segment_bytes = 1_048_576
live_bytes_max = 3_145_728
reserve_bytes = 262_144

[raft]
log_bytes_max = 65_536
snapshot_chunk_bytes = 32_768

[limits]
disk_free_bytes_min = 33_554_432

[sharding]
moves_max = 2
move_bytes_per_s_max = {rate}
"""
"""A log so short that who comes needs a snapshot, which is on its way for a while."""
RATE_BYTES_PER_S = 1_000_000


class Cluster:
    """The nodes, and where asked for a link for each way between two of them.

    All go by the shim, so that disks can be slowed and filled; it also leads what a node dials
    through the links, whatever address it was told.
    """

    def __init__(self, directory: Path, *, has_links: bool = False, nodes: int = FOUNDERS) -> None:
        """Start nobody yet. Raises NoCompiler where the shim cannot be made."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.nodes: list[Node] = []
        self.founders = nodes
        self._library = build(directory)
        self._has_links = has_links
        count = NODES_MAX * (1 + NODES_MAX) if has_links else NODES_MAX
        self._ports = free_ports(count, random.SystemRandom())
        self.links: dict[tuple[str, str], Link] = {}
        self._retries = Retries()

    # -- nodes ------------------------------------------------------------------------------------

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.id == name)

    @property
    def addresses(self) -> list[tuple[NodeId, str]]:
        """Of each node that there ever was."""
        return [(node.id, address(node)) for node in self.nodes]

    @property
    def endpoints(self) -> Endpoints:
        """Of the nodes that run."""
        return Endpoints(tuple(address(node) for node in self.nodes if node.is_up))

    def add(self) -> Node:
        """One more node, which is not started."""
        number = len(self.nodes) + 1
        name = NodeId(f"n{number}")
        directory = self.directory / name
        directory.mkdir()
        data = directory / "data"
        dial = self._dial(number - 1)
        shim = Shim(self._library, data, directory / "journal", directory / "control", dial)
        node = Node(name, self._ports[number - 1], directory, shim)
        self.nodes.append(node)
        self._link(number - 1)
        return node

    def _dial(self, place: int) -> str:
        if not self._has_links:
            return ""
        return f"{self._ports[0]} {NODES_MAX} {NODES_MAX * (1 + place)}"

    def _link(self, place: int) -> None:
        """Open the links of the node at ``place`` from and to those that were there before."""
        if not self._has_links:
            return
        for other in range(place):
            for source, target in ((place, other), (other, place)):
                port = self._ports[NODES_MAX * (1 + source) + target]
                names = self.nodes[source].id, self.nodes[target].id
                link = Link(
                    *names, self._ports[target], port, random.Random(f"{names}"), self._retries
                )
                self.links[names] = link
                link.open()

    def links_of(self, name: NodeId) -> list[Link]:
        """All from it and to it."""
        return [link for ends, link in self.links.items() if name in ends]

    async def open(self) -> None:
        """Start the founders and wait until every shard is led."""
        founders = [self.add() for _ in range(self.founders)]
        for node in founders:
            self._configure(node, joins=False)
            node.start()
        await wait_for(self._is_led, "every shard has a leader", WAIT_S)

    async def join(self) -> Node:
        """Start one more node; it is not a member yet."""
        node = self.add()
        self._configure(node, joins=True)
        node.start()
        return node

    async def _is_led(self) -> bool:
        return (await self.survey()).view.is_led

    def _configure(self, node: Node, *, joins: bool) -> None:
        founders = self.nodes[: self.founders]
        lines = ["[node]", f'id = "{node.id}"', 'data_dir = "data"']
        if joins:
            seeds = ", ".join(f'"{address(founder)}"' for founder in founders)
            lines += [f'address = "{address(node)}"', "[cluster]", f'id = "{CLUSTER}"']
            lines += [f"seeds = [{seeds}]"]
        else:
            lines += ["[cluster]", f'id = "{CLUSTER}"', f"shards = {SHARDS}", "replicas = 3"]
            for founder in founders:
                lines += ["[[cluster.nodes]]", f'id = "{founder.id}"']
                lines += [f'address = "{address(founder)}"']
        text = "\n".join(lines) + _SETTINGS.format(rate=RATE_BYTES_PER_S)
        (node.directory / "node.toml").write_text(text, encoding="utf-8")

    # -- what is done to it -----------------------------------------------------------------------

    async def order(self, action: Action, name: str) -> None:
        await give(self.endpoints, Order(action, NodeId(name)), timeout_s=WAIT_S)

    async def survey(self) -> Survey:
        return await survey_endpoints(self.endpoints)

    def slow(self, ms: int, *names: NodeId) -> None:
        """Each sync of these nodes, or of all, takes so long; 0: no longer than it does."""
        for node in self.nodes:
            if not names or node.id in names:
                node.set_fault(f"slow {ms}") if ms else node.clear_fault()

    def unexpected_ends(self) -> list[str]:
        said = [complaint for node in self.nodes for complaint in node.complaints]
        return said + [end for node in self.nodes if (end := node.unexpected_end()) is not None]

    # -- its end ----------------------------------------------------------------------------------

    async def stop(self) -> None:
        """SIGTERM to all; their data stays."""
        await asyncio.gather(*(asyncio.to_thread(node.end) for node in self.nodes))

    async def close(self) -> None:
        """End every process by its own id, and every link."""
        await self.stop()
        await asyncio.gather(*(link.close() for link in self.links.values()))


def address(node: Node) -> str:
    return f"127.0.0.1:{node.port}"
