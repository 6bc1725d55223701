"""Which nodes a command talks to.

In this order: ``--endpoints``, an explicit ``--dir``, ``KV_ENDPOINTS``, the cluster in
``.kv`` of the working directory, and 127.0.0.1:7401.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kvstore.cli.options import DIRECTORY_DEFAULT, Settings
from kvstore.config import ClusterConfig, is_address
from kvstore.errors import InvalidArgument

ENDPOINTS_VARIABLE = "KV_ENDPOINTS"
ADDRESS_DEFAULT = "127.0.0.1:7401"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses to try, and the whole cluster where its directory told it."""

    addresses: tuple[str, ...]
    cluster: ClusterConfig | None = None

    def __str__(self) -> str:
        return ",".join(self.addresses)


def resolve(settings: Settings) -> Endpoints:
    """The nodes that the options, the environment or the working directory name.

    Raises:
        InvalidArgument: an address is not ``host:port``, or ``--dir`` holds no cluster.
        ConfigError: the cluster's file cannot be used.
    """
    if settings.endpoints is not None:
        return Endpoints(parse(settings.endpoints, "--endpoints"))
    if settings.directory is not None:
        return of_directory(settings.directory)
    if named := os.environ.get(ENDPOINTS_VARIABLE):
        return Endpoints(parse(named, ENDPOINTS_VARIABLE))
    default = Path(DIRECTORY_DEFAULT)
    if (default / "cluster.toml").exists():
        return of_directory(default)
    return Endpoints((ADDRESS_DEFAULT,))


def of_directory(directory: Path) -> Endpoints:
    """All nodes of the local cluster in ``directory``, running or not."""
    from kvstore.cli.launcher import layout

    loaded = layout.load(directory)
    return Endpoints(tuple(node.address for node in loaded.nodes), loaded.spec.config())


def parse(text: str, source: str) -> tuple[str, ...]:
    """Split ``host:port,host:port``.

    Raises:
        InvalidArgument: names ``source`` and the part that is not an address.
    """
    addresses = tuple(part.strip() for part in text.split(",") if part.strip())
    for address in addresses:
        if not is_address(address):
            raise InvalidArgument(f"{source}: {address!r} is not host:port")
    if not addresses:
        raise InvalidArgument(f"{source}: no address given")
    return addresses
