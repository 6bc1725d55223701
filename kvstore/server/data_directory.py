"""Which data directory a configuration means, and what must not change under it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kvstore.storage.identity import Owner, open_identity
from kvstore.wire.hello import Begun

if TYPE_CHECKING:
    from kvstore.config import ClusterConfig, NodeConfig
    from kvstore.storage.identity import Identity

log = logging.getLogger(__name__)


def open_data_directory(config: NodeConfig) -> Identity:
    """Lock the node's data directory and see that it is whole enough to be this node's.

    Raises:
        DataDirectoryError: in use, someone else's, of a newer format or unreadable.
        CorruptionError: the log is gone.
    """
    owner = owner_of(config)
    identity = open_identity(
        config.data_dir,
        cluster_id=owner.cluster_id,
        node_id=config.node_id,
        facts=owner.facts,
    )
    try:
        identity.check_log()
    except BaseException:
        identity.release()
        raise
    return identity


def count_start(identity: Identity, wall_ms: int) -> Begun:
    """Which of all the processes on this directory this is.

    So that the others can tell it from one that uses a copy. Without room for it the time alone
    must do.
    """
    try:
        return Begun(identity.count_start(), wall_ms)
    except OSError as error:
        log.warning("this start could not be counted: %s", error)
        return Begun(identity.starts + 1, wall_ms)


def note_log(identity: Identity) -> None:
    """There is a log now, to be missed at the next start if it is gone.

    That guards against a mishap and changes nothing else: without room for it, a later start
    will do.
    """
    try:
        identity.begin_log()
    except OSError as error:
        log.warning("that the log was begun could not be noted: %s", error)


def owner_of(config: NodeConfig) -> Owner:
    """Whose directory it must be, and by which settings; one that joins is told of them."""
    facts = {} if config.joining is not None else placement_facts(config.cluster)
    return Owner(config.cluster.id, config.node_id, facts)


def placement_facts(cluster: ClusterConfig) -> dict[str, str]:
    """What decides which node holds which shard, so it must not change under stored data."""
    nodes = " ".join(f"{node.id}/{node.weight:g}/{node.zone}" for node in cluster.nodes)
    return {"shards": str(cluster.shards), "replicas": str(cluster.replicas), "nodes": nodes}
