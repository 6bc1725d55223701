"""Who may have how many of the files and sockets that the kernel allows this process.

An engine that cannot open a file must stop the node, and whoever connects takes a file: so what
the engine and the log need is kept for them, and the rest is divided. None of those who come from
outside, be they clients, peers or such as say nothing, can take what is for the others.
"""

from __future__ import annotations

import logging
import resource
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from kvstore.net.limits import ContactLimits, NetLimits
from kvstore.storage.rocks import OPEN_FILES_MAX

if TYPE_CHECKING:
    from kvstore.config import LimitsConfig

log = logging.getLogger(__name__)

OTHER_FILES: Final = 128
"""Beside the engine's: the log, snapshots, what the process itself has open, and connections to
the nodes that this one shares groups with."""


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """Parts of ``allowed``, which together are at most as much."""

    allowed: int
    engine: int
    clients: int
    peers: int
    """Connections that peers may make to this node."""
    contacts: int
    """Connections to members that share no groups with it."""
    strangers: int
    """Connections that have not yet said hello."""

    @classmethod
    def of(cls, allowed: int, connections_max: int) -> OpenFiles:
        """Divide ``allowed`` where ``connections_max`` clients are wanted."""
        own = min(OPEN_FILES_MAX + OTHER_FILES, allowed // 2)
        sockets = allowed - own
        return cls(
            allowed=allowed,
            engine=own * OPEN_FILES_MAX // (OPEN_FILES_MAX + OTHER_FILES),
            clients=min(connections_max, sockets // 2),
            peers=min(NetLimits().peer_connections_max, sockets // 4),
            contacts=min(ContactLimits().contacts_max, sockets // 8),
            strangers=min(NetLimits().handshakes_max, sockets // 8),
        )

    @classmethod
    def here(cls, limits: LimitsConfig) -> OpenFiles:
        """Divide what this process is allowed at present."""
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unbounded = allowed == resource.RLIM_INFINITY
        return cls.of(sys.maxsize if unbounded else allowed, limits.connections_max)

    def warn(self, wanted: int) -> None:
        """Say so if there can be less than ``wanted`` clients."""
        if self.clients < wanted:
            log.warning(
                "limits.connections_max is %d, but at most %d clients are let in: this process may "
                "have only %d open files (ulimit -n), and needs %d for so many",
                wanted,
                self.clients,
                self.allowed,
                OPEN_FILES_MAX + OTHER_FILES + 2 * wanted,
            )

    def net_limits(self, limits: LimitsConfig) -> NetLimits:
        """The bounds of whoever listens."""
        return replace(
            NetLimits.of(limits),
            connections_max=self.clients,
            peer_connections_max=self.peers,
            handshakes_max=self.strangers,
        )

    def contact_limits(self) -> ContactLimits:
        """The bounds of connections to whoever is a member."""
        return ContactLimits(contacts_max=self.contacts)


def allow_many() -> None:
    """Let this process have as many open files as it may allow itself."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError) as error:  # some systems refuse a limit that they have told
        log.debug("the limit of open files stays as it is: %s", error)
