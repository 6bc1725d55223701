"""Which files make up a local cluster, and what they say.

::

    DIR/cluster.toml     what the cluster was made with; read by every later command
    DIR/cluster.lock     held by the one command that starts or stops nodes
    DIR/n1/node.toml     the node's own configuration, as for any node
    DIR/n1/node.pid      the process that was started last
    DIR/n1/node.log      what it wrote, over all its starts
    DIR/n1/data/         its data directory

Nodes have numbers, and names and ports by these: ``n1`` to ``nN`` have founded the cluster, later
ones were added. A number is never used again; the files of a node that was removed from the
cluster stay until all are removed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvstore.cli.launcher.ports import ADMIN_OFFSET, HOST, PORT_MAX
from kvstore.config import (
    REPLICAS_DEFAULT,
    SHARDS_DEFAULT,
    SHARDS_MAX,
    ClusterConfig,
    NodeAddress,
)
from kvstore.config.settings import SEEDS_MAX
from kvstore.errors import ConfigError, InvalidArgument
from kvstore.ids import NodeId

FORMAT = 1
NODES_DEFAULT = 3
NODES_MAX = ADMIN_OFFSET - 1
BASE_PORT_DEFAULT = 7400


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """One node: its name, its address and where its files are."""

    id: NodeId
    address: str
    admin_port: int
    directory: Path

    @property
    def config_file(self) -> Path:
        """What ``kv node start`` is given."""
        return self.directory / "node.toml"

    @property
    def pid_file(self) -> Path:
        """Written by whoever starts the process."""
        return self.directory / "node.pid"

    @property
    def log_file(self) -> Path:
        """The process's stdout and stderr."""
        return self.directory / "node.log"

    @property
    def data_dir(self) -> Path:
        """The node's own; nothing else writes there."""
        return self.directory / "data"


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """What a cluster is made with and keeps for life, and how it has grown and shrunk since."""

    id: str
    nodes: int = NODES_DEFAULT
    """Those that found it."""
    shards: int = SHARDS_DEFAULT
    replicas: int = REPLICAS_DEFAULT
    base_port: int = BASE_PORT_DEFAULT
    added: tuple[int, ...] = ()
    """Numbers of later ones, rising."""
    removed: tuple[int, ...] = ()
    """Numbers of those that are no members any more, founders among them."""

    def check(self) -> None:
        """Refuse what cannot be started.

        Raises:
            InvalidArgument: names the option and what is allowed.
        """
        if not 1 <= self.nodes <= NODES_MAX:
            raise InvalidArgument(f"--nodes must be from 1 to {NODES_MAX}, not {self.nodes}")
        if not 1 <= self.replicas <= self.nodes:
            raise InvalidArgument(
                f"--replicas must be from 1 to the number of nodes ({self.nodes}), "
                f"not {self.replicas}"
            )
        if not 1 <= self.shards <= SHARDS_MAX or self.shards & (self.shards - 1):
            raise InvalidArgument(
                f"--shards must be a power of two from 1 to {SHARDS_MAX}, not {self.shards}"
            )
        if list(self.added) != sorted({n for n in self.added if self.nodes < n <= NODES_MAX}):
            raise InvalidArgument(
                f"added must be rising numbers from {self.nodes + 1} to {NODES_MAX}, "
                f"not {list(self.added)}"
            )
        if not set(self.removed) <= set(self.numbers_used):
            raise InvalidArgument(f"removed {list(self.removed)} are not all nodes of the cluster")
        base_port_max = PORT_MAX - ADMIN_OFFSET - self.numbers_used[-1]
        if not 1 <= self.base_port <= base_port_max:
            raise InvalidArgument(
                f"--base-port must be from 1 to {base_port_max} (or 0: free ports), "
                f"not {self.base_port}"
            )

    @property
    def numbers_used(self) -> tuple[int, ...]:
        """Of every node that there is or was, rising."""
        return (*range(1, self.nodes + 1), *self.added)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the nodes that were not removed."""
        return tuple(number for number in self.numbers_used if number not in self.removed)

    def address(self, number: int) -> NodeAddress:
        """The name and the address of the node with this number."""
        return NodeAddress(NodeId(f"n{number}"), f"{HOST}:{self.base_port + number}")

    def config(self) -> ClusterConfig:
        """The same as the founders' own configuration says it; later nodes are among the seeds."""
        return ClusterConfig(
            id=self.id,
            nodes=tuple(map(self.address, range(1, self.nodes + 1))),
            shards=self.shards,
            replicas=self.replicas,
            seeds=tuple(self.address(n).address for n in self.numbers if n in self.added),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """A cluster and its directory."""

    directory: Path
    spec: ClusterSpec

    @property
    def nodes(self) -> list[NodeFiles]:
        """All nodes that were not removed, n1 first."""
        return [self.files_of(number) for number in self.spec.numbers]

    @property
    def former(self) -> list[NodeFiles]:
        """Nodes that were removed from the cluster, whose files are still here."""
        return [self.files_of(number) for number in self.spec.removed]

    def files_of(self, number: int) -> NodeFiles:
        """The node with this number, whether there is one or not."""
        node = self.spec.address(number)
        return NodeFiles(
            id=node.id,
            address=node.address,
            admin_port=self.spec.base_port + ADMIN_OFFSET + number,
            directory=self.directory.resolve() / node.id,
        )

    def node(self, node_id: str) -> NodeFiles:
        """The node called ``node_id``.

        Raises:
            InvalidArgument: there is none, or none any more; names those there are.
        """
        nodes = self.nodes
        for node in nodes:
            if node.id == node_id:
                return node
        known = ", ".join(node.id for node in nodes)
        if any(node.id == node_id for node in self.former):
            raise InvalidArgument(f"{node_id} was removed from this cluster (there are: {known})")
        raise InvalidArgument(f"there is no node {node_id!r} here (known: {known})")

    def number_of(self, node_id: str) -> int:
        """The number of the node called ``node_id``; raises InvalidArgument if there is none."""
        files = self.node(node_id)
        return next(n for n in self.spec.numbers if self.files_of(n) == files)

    def with_added(self, number: int) -> Layout:
        """The same with one more node."""
        spec = dataclasses.replace(self.spec, added=(*self.spec.added, number))
        return dataclasses.replace(self, spec=spec)

    def without_added(self, number: int) -> Layout:
        """The inverse of :meth:`with_added`: as if it had never been."""
        added = tuple(n for n in self.spec.added if n != number)
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, added=added))

    def with_removed(self, number: int) -> Layout:
        """The same with this node among the former ones."""
        spec = dataclasses.replace(self.spec, removed=(*self.spec.removed, number))
        return dataclasses.replace(self, spec=spec)


def cluster_file(directory: Path) -> Path:
    """The file whose presence makes ``directory`` a cluster."""
    return directory / "cluster.toml"


def lock_file(directory: Path) -> Path:
    """The file that one command at a time holds."""
    return directory / "cluster.lock"


def load(directory: Path) -> Layout:
    """The cluster in ``directory``.

    Raises:
        InvalidArgument: there is none.
        ConfigError: its file cannot be read or was written by a newer version.
    """
    path = cluster_file(directory)
    if not path.exists():
        raise InvalidArgument(
            f"there is no cluster in {directory} (kv cluster up makes one, --dir names another)"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        spec = _spec(table)
        spec.check()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, InvalidArgument, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return Layout(directory, spec)


def _spec(table: dict[str, Any]) -> ClusterSpec:
    written = table.pop("format", None)
    if written != FORMAT:
        raise ConfigError(f"format {written!r} is not {FORMAT}, the one this version knows")
    try:
        return ClusterSpec(
            id=str(table["id"]),
            nodes=int(table["nodes"]),
            shards=int(table["shards"]),
            replicas=int(table["replicas"]),
            base_port=int(table["base_port"]),
            added=tuple(map(int, table.get("added", ()))),
            removed=tuple(map(int, table.get("removed", ()))),
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"a setting is missing or wrong: {error}") from error


def save(layout: Layout) -> None:
    """Write the cluster's file and its nodes' configurations, the cluster's last."""
    for node in layout.nodes:
        node.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(node.config_file, node_toml(layout.spec, node))
    save_spec(layout)


def save_spec(layout: Layout) -> None:
    """Write only the cluster's file."""
    write_atomically(cluster_file(layout.directory), cluster_toml(layout.spec))


def cluster_toml(spec: ClusterSpec) -> str:
    """What :func:`load` reads back."""
    return (
        "# Made by `kv cluster up`; the nodes' own settings are in nN/node.toml.\n"
        f"format = {FORMAT}\n"
        f"id = {json.dumps(spec.id)}\n"
        f"nodes = {spec.nodes}\n"
        f"shards = {spec.shards}\n"
        f"replicas = {spec.replicas}\n"
        f"base_port = {spec.base_port}\n"
        + (f"added = {list(spec.added)}\n" if spec.added else "")
        + (f"removed = {list(spec.removed)}\n" if spec.removed else "")
    )


def node_toml(spec: ClusterSpec, node: NodeFiles) -> str:
    """The configuration of one founder; ``configs/node.toml`` lists what may be added."""
    cluster = spec.config()
    lines = [
        "# Made by `kv cluster up`, never rewritten: settings added here stay.",
        "[node]",
        f"id = {json.dumps(node.id)}",
        'data_dir = "data"',
        f"admin_port = {node.admin_port}",
        "",
        "[cluster]",
        f"id = {json.dumps(cluster.id)}",
        f"shards = {cluster.shards}",
        f"replicas = {cluster.replicas}",
    ]
    for member in cluster.nodes:
        lines += [
            "",
            "[[cluster.nodes]]",
            f"id = {json.dumps(member.id)}",
            f"address = {json.dumps(member.address)}",
        ]
    return "\n".join(lines) + "\n"


def joining_toml(layout: Layout, number: int, *, weight: float = 1.0, zone: str = "") -> str:
    """The configuration of a node of ``layout`` that joins the others."""
    spec, node = layout.spec, layout.files_of(number)
    seeds = [other.address for other in layout.nodes if other != node][:SEEDS_MAX]
    lines = [
        "# Made by `kv cluster add`, never rewritten: settings added here stay.",
        "[node]",
        f"id = {json.dumps(node.id)}",
        'data_dir = "data"',
        f"admin_port = {node.admin_port}",
        f"address = {json.dumps(node.address)}",
        f"weight = {weight!r}",
        f"zone = {json.dumps(zone, ensure_ascii=False)}",
        "",
        "[cluster]",
        f"id = {json.dumps(spec.id)}",
        f"shards = {spec.shards}",
        f"replicas = {spec.replicas}",
        f"seeds = {json.dumps(seeds)}",
        "nodes = []",
    ]
    return "\n".join(lines) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path``; a reader sees the old text or the new, never half."""
    draft = path.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
