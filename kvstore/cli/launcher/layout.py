"""Which files make up a local cluster, and what they say.

::

    DIR/cluster.toml     what the cluster was made with; read by every later command
    DIR/cluster.lock     held by the one command that starts or stops nodes
    DIR/n1/node.toml     the node's own configuration, as for any node
    DIR/n1/node.pid      the process that was started last
    DIR/n1/node.log      what it wrote, over all its starts
    DIR/n1/data/         its data directory
"""

from __future__ import annotations

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
    """What a cluster is made with and keeps for life."""

    id: str
    nodes: int = NODES_DEFAULT
    shards: int = SHARDS_DEFAULT
    replicas: int = REPLICAS_DEFAULT
    base_port: int = BASE_PORT_DEFAULT

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
        base_port_max = PORT_MAX - ADMIN_OFFSET - self.nodes
        if not 1 <= self.base_port <= base_port_max:
            raise InvalidArgument(
                f"--base-port must be from 1 to {base_port_max} (or 0: free ports), "
                f"not {self.base_port}"
            )

    def config(self) -> ClusterConfig:
        """The same as the nodes' own configuration says it."""
        nodes = tuple(
            NodeAddress(id=NodeId(f"n{i}"), address=f"{HOST}:{self.base_port + i}")
            for i in range(1, self.nodes + 1)
        )
        return ClusterConfig(id=self.id, nodes=nodes, shards=self.shards, replicas=self.replicas)


@dataclass(frozen=True, slots=True)
class Layout:
    """A cluster and its directory."""

    directory: Path
    spec: ClusterSpec

    @property
    def nodes(self) -> list[NodeFiles]:
        """All nodes, n1 first."""
        return [
            NodeFiles(
                id=node.id,
                address=node.address,
                admin_port=self.spec.base_port + ADMIN_OFFSET + i,
                directory=self.directory.resolve() / node.id,
            )
            for i, node in enumerate(self.spec.config().nodes, start=1)
        ]

    def node(self, node_id: str) -> NodeFiles:
        """The node called ``node_id``.

        Raises:
            InvalidArgument: there is none; names those there are.
        """
        nodes = self.nodes
        for node in nodes:
            if node.id == node_id:
                return node
        known = ", ".join(node.id for node in nodes)
        raise InvalidArgument(f"there is no node {node_id!r} here (known: {known})")


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
    except (ValueError, InvalidArgument, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return Layout(directory, spec)


def _spec(table: dict[str, Any]) -> ClusterSpec:
    written = table.pop("format", None)
    if written != FORMAT:
        raise ConfigError(f"format {written!r} is not {FORMAT}, the one this version knows")
    try:
        return ClusterSpec(
            id=str(table["id"]),
            **{key: int(table[key]) for key in ("nodes", "shards", "replicas", "base_port")},
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"a setting is missing or wrong: {error}") from error


def save(layout: Layout) -> None:
    """Write the cluster's file and its nodes' configurations, the cluster's last."""
    for node in layout.nodes:
        node.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(node.config_file, node_toml(layout.spec, node))
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
    )


def node_toml(spec: ClusterSpec, node: NodeFiles) -> str:
    """The configuration of one node; ``configs/node.toml`` lists what may be added."""
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


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path``; a reader sees the old text or the new, never half."""
    draft = path.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
