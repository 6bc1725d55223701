"""Ports of this machine that nobody uses."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from kvstore.errors import StartupError

if TYPE_CHECKING:
    import random

HOST = "127.0.0.1"
ADMIN_OFFSET = 100
PORT_MAX = 65_535

_LOWEST = 10_000
_TRIES = 200
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_base_port(nodes: int, rng: random.Random) -> int:
    """A base such that the ports of ``nodes`` nodes above it, admin ports too, are free.

    Looked for below the range from which the kernel gives outgoing connections their ports:
    there a node that restarts finds its port still free.

    Raises:
        StartupError: none was found.
    """
    highest = _ephemeral_lowest() - ADMIN_OFFSET - nodes - 1
    for _ in range(_TRIES):
        base = rng.randrange(_LOWEST, highest)
        if all(is_free(port) for port in ports_of(base, nodes)):
            return base
    raise StartupError(f"no {nodes} neighbouring ports are free on {HOST}")


def ports_of(base: int, nodes: int) -> list[int]:
    """Every port that a cluster of ``nodes`` takes above ``base``."""
    numbers = range(1, nodes + 1)
    return [base + i for i in numbers] + [base + ADMIN_OFFSET + i for i in numbers]


def is_free(port: int) -> bool:
    """Whether a listener could be bound to ``port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _ephemeral_lowest() -> int:
    try:
        return max(2 * _LOWEST, int(_EPHEMERAL_RANGE.read_text().split()[0]))
    except (OSError, ValueError, IndexError):
        return 32_768
